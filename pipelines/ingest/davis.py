"""DAVIS as it is unpacked: sequences in ImageSets, frames in JPEGImages, masks of object ids in Annotations."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.pipelines.ingest.base import Entry
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.ingest.folder import FolderSource


class DavisSource(FolderSource):
    """`root` is the folder DAVIS. A preset of the folder source: each sequence that the list names is a clip."""

    kind: Literal["davis"] = Field(default="davis", description="kind of the source")  # type: ignore[assignment]
    images: str = Field(default="JPEGImages/480p", description="folder of the sequences' frames under the root")
    masks: str | None = Field(default="Annotations/480p", description="folder of the sequences' masks under the root")
    group_by: Literal["parent"] | None = Field(default="parent", description="each sequence is a clip")
    allow_empty: bool = Field(default=True, description="take frames in which no object is seen: objects leave")
    split: str = Field(default="train", description="name of the list of sequences, without .txt")
    lists: str = Field(default="ImageSets/2017", description="folder of the lists under the root")

    def entries(self) -> Iterator[Entry]:
        wanted, seen = set(sequence_names(self.open_root(), self.lists, self.split)), set()
        for entry in super().entries():
            name = PurePosixPath(entry.key).parent.name
            if name in wanted:
                seen.add(name)
                yield entry
        if missing := sorted(wanted - seen):
            named = ", ".join(missing[:3])
            problem = Problem(Reason.MISSING_IMAGE, f"frames of {named}", "none", f"unpack {self.images} whole")
            raise ContractError(f"{self.lists}/{self.split}.txt", problem)


def sequence_names(root: Root, lists: str, split: str) -> list[str]:
    """Names in a list of sequences, in its order."""
    with root.text(f"{lists}/{split}.txt") as lines:
        return [name for line in lines if (name := line.strip())]
