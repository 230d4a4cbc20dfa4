"""PASCAL VOC devkit: lists in ImageSets, photos in JPEGImages, palette masks in SegmentationClass, objects in XML."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal
from xml.etree.ElementTree import Element

from pydantic import Field

from maskmill.data_contracts import LabelSpace, Reason
from maskmill.data_contracts.texts import TextError, parse_xml
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import FileIndex, Root
from maskmill.pipelines.ingest.lists import read_list
from maskmill.pipelines.ingest.mask_files import MASK_SUFFIXES, read_mask
from maskmill.pipelines.ingest.pairing import pairing_problem


@dataclass(frozen=True)
class VocObject:
    """One object of a VOC annotation; `box` is (x0, y0, x1, y1) in pixels, zero-based, x1 and y1 exclusive."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocSource(Source):
    """`root` is the folder of one year (VOCdevkit/VOC2012). `split` names a list in `lists`.

    Names of the objects in `annotations` become prompt labels, where there is an XML file; null leaves them unread.
    """

    kind: Literal["voc"] = Field(default="voc", description="kind of the source")
    version: ClassVar[int] = 2
    split: str = Field(default="trainval", description="name of the list to take, without .txt")
    lists: str = Field(default="ImageSets/Segmentation", description="folder of the lists under the root")
    images: str = Field(default="JPEGImages", description="folder of the images under the root")
    masks: str = Field(
        default="SegmentationClass",
        description="folder of the palette masks under the root, such as SegmentationClassAug",
    )
    annotations: str | None = Field(
        default="Annotations",
        description="folder of the XML files under the root, whose object names are what the photo was asked to "
        "show; null = left unread",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, masks, notes = root.index(self.images), root.index(self.masks, MASK_SUFFIXES), self._notes(root)
        for line in read_list(root, f"{self.lists}/{self.split}.txt", images, masks):
            photo = line.photos[0]
            stem = images.stem(photo.path)
            found = masks.find(stem) if line.mask is None else [line.mask]
            note = notes.find(stem) if notes is not None else []
            fields = {"mask": found[0].path if found else None, "note": note[0].path if note else None}
            stamp = json.dumps([photo.stamp, [m.stamp for m in found], [n.stamp for n in note]])
            problem = photo.problem or pairing_problem(stem, found, masks) or (note[0].problem if note else None)
            yield Entry(photo.path, stamp, fields, problem)

    def _notes(self, root: Root) -> FileIndex | None:
        if self.annotations is None or not root.has_folder(self.annotations):
            return None
        return root.index(self.annotations, frozenset((".xml",)))

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root = self.reader()
        note = entry.fields["note"]
        words = None
        if note is not None:
            words = object_names(root.read(note, Reason.BAD_ANNOTATION), note)
        mask = read_mask(root, entry.fields["mask"], self.max_pixels)
        return RawSample(image=root.read(entry.key), mask=mask, words=words)


def parse_voc_xml(data: bytes, where: str = "annotation") -> list[VocObject]:
    """Objects of a VOC annotation file. VOC counts pixels from 1 and includes the last one; boxes here do neither.

    Raises:
        ContractError: no XML, XML with entities or a DTD, or an object without a name or a sensible box.
    """
    return [_object(node, f"{where}, object {n}") for n, node in enumerate(_objects(data, where), 1)]


def object_names(data: bytes, where: str) -> tuple[str, ...]:
    """Names of the objects of a VOC annotation file, sorted, each once; their boxes are not looked at.

    Raises:
        ContractError: no XML, XML with entities or a DTD, or an object without a name.
    """
    names = [(node.findtext("name") or "").strip() for node in _objects(data, where)]
    if "" in names:
        found = f"none in object {names.index('') + 1} of {len(names)}"
        raise bad_annotation(where, "a name in every object", found, "mend the XML, or set source.annotations: null")
    return tuple(sorted(set(names)))


def _objects(data: bytes, where: str) -> list[Element]:
    try:
        return list(parse_xml(data).findall("object"))
    except TextError as error:
        fix = "mend the XML, or save it as UTF-8"
        raise bad_annotation(where, "a VOC annotation", str(error)[:200], fix) from error


def _object(node: Element, where: str) -> VocObject:
    name = (node.findtext("name") or "").strip()
    try:
        x0, y0, x1, y1 = (float(node.findtext(f"bndbox/{tag}", "nan")) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        x0 = y0 = x1 = y1 = float("nan")
    if not name or not (x0 <= x1 < float("inf") and y0 <= y1 < float("inf") and min(x0, y0) > float("-inf")):
        found = f"{name!r} with ({x0}, {y0}, {x1}, {y1})"
        raise bad_annotation(where, "an object with a name and a box xmin <= xmax, ymin <= ymax", found, "mend the XML")
    return VocObject(name, (x0 - 1, y0 - 1, x1, y1), (node.findtext("difficult") or "0").strip() == "1")
