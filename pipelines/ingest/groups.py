"""Source `groups`: a JSON index of image groups that each share one object (co-saliency)."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import LabelSpace, Reason, raise_transient
from maskmill.data_contracts.label_files import decode_labels
from maskmill.data_contracts.texts import MOST_BYTES, parse_json
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.ingest.masks import plain_values

Row = dict[str, Any]


class GroupsSource(Source):
    """`index` holds {"groups": [{"name", "items": [{"image", "mask", "values"}]}]}, with paths relative to the root.

    `values` are the values of that mask which are the common object; everything else becomes background. `shared` is
    the class that the object gets: the only class of the label space where it is not given. One photo may be in
    several groups. Where a group's data set is not there, its items are listed as missing.
    """

    kind: Literal["groups"] = Field(default="groups", description="kind of the source")
    version: ClassVar[int] = 2
    index: str = Field(
        default="co_groups/groups.json",
        description="JSON file under the root: groups, their images, masks and mask values of the common object",
    )
    shared: str | None = Field(
        default=None, description="class of the common object; null = the only class of the label space"
    )
    only: tuple[str, ...] | None = Field(default=None, description="names of the groups to take; null = all")
    whole_groups: bool = Field(default=True, description="let a shard outgrow its size rather than cut a group")

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for name, items in read_index(root, self.index).items():
            if self.only is not None and name not in self.only:
                continue
            for number, item in enumerate(items):
                fields = {"group": name, "number": number, **item}
                stamp = json.dumps([_stamp(root, item["image"]), _stamp(root, item["mask"]), item["values"]])
                yield Entry(f"{name}/{item['image']}", stamp, fields)

    def group_of(self, entry: Entry) -> str | None:
        """The group's name."""
        group: str | None = entry.fields.get("group")
        return group

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        data = root.read(fields["mask"], Reason.MISSING_MASK)
        mask = plain_values(decode_labels(data, fields["mask"], self.max_pixels, self.page), fields["mask"])
        target = space.find(self.shared) if self.shared else _only_class(space, entry.key)
        background = space.background_id or 0
        return RawSample(
            image=root.read(fields["image"]),
            drawn=np.where(np.isin(mask, fields["values"]), target.id, background).astype(np.uint8),
            group=fields["group"],
            index=fields["number"],
            provenance={"source_path": fields["image"]},
        )


def read_index(root: Root, path: str) -> dict[str, list[Row]]:
    """Items by group.

    Raises:
        FileNotFoundError: no such file. ValueError: it is not laid out as the source expects.
    """
    with root.text(path) as handle:
        try:
            groups = parse_json(handle.read(MOST_BYTES + 1))["groups"]
            return {
                str(group["name"]): [
                    {"image": str(i["image"]), "mask": str(i["mask"]), "values": [int(v) for v in i["values"]]}
                    for i in group["items"]
                ]
                for group in groups
            }
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f'{root.url}/{path}: expected {{"groups": [{{"name", "items": [{{"image", "mask", "values"}}]}}]}}, '
                f"found {type(error).__name__} {error}; mend the index"
            ) from error


def _stamp(root: Root, path: str) -> str:
    try:
        return root.stamp(path)
    except OSError as error:
        raise_transient(error)
        return "missing"


def _only_class(space: LabelSpace, where: str) -> Any:
    if len(space.classes) != 1:
        fix = "name the class of the shared object in `shared`"
        raise bad_annotation(where, "a label space of one class", f"{len(space.classes)} classes", fix)
    return space.classes[0]
