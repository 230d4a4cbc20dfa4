"""nnU-Net's raw layout: imagesTr/case_0000.nii.gz (a file a channel), labelsTr/case.nii.gz, names in dataset.json."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from maskmill.data_contracts import Problem, Reason
from maskmill.pipelines.ingest.base import Entry
from maskmill.pipelines.ingest.files import File, Root
from maskmill.pipelines.ingest.volumes_nifti import NiftiSource

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")


class NnunetSource(NiftiSource):
    """`root` is a Dataset… (or Task…) folder. Volumes as `nifti` reads them; `channel` is the one that is read, the
    others are counted as not read. The group is the case.
    """

    kind: Literal["nnunet"] = Field(default="nnunet", description="kind of the source")  # type: ignore[assignment]
    images: str = Field(default="imagesTr", description="folder of the images under the root")
    masks: str | None = Field(
        default="labelsTr", description="folder of the masks under the root; null = images without masks"
    )
    mask_suffix: str = Field(default="", description="what a mask's stem has after its image's, such as _mask")
    pattern: str = Field(
        default=r"(?P<volume>(?P<group>.+?))(?:_\d{4})?$",
        description="regular expression over the path without suffix, with the groups `group` (patient) and "
        "`volume` (scan)",
    )
    channel: int = Field(
        default=0, ge=0, le=9999, description="channel that is read; the others are counted as not read"
    )

    def _entries(self, root: Root, file: File, stem: str, mask: File | None, shared: Problem | None) -> Iterator[Entry]:
        found = CHANNEL.match(stem)
        if found is not None and int(found["channel"]) != self.channel:
            fix = f"set source.channel: {int(found['channel'])} to read it instead"
            problem = Problem(Reason.NOT_READ, f"channel {self.channel:04d} of {found['case']}", found["channel"], fix)
            yield Entry(file.path, file.stamp, problem=file.problem or problem)
            return
        yield from super()._entries(root, file, stem, mask, None)
