"""PASCAL VOC devkit: lists in ImageSets, photos in JPEGImages, palette masks in SegmentationClass, objects in XML."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from maskmill.data_contracts import LabelSpace, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import FileIndex, Root
from maskmill.pipelines.ingest.folder import missing_image, pairing_problem, read_stems


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

    kind: Literal["voc"] = "voc"
    version: ClassVar[int] = 2
    split: str = "trainval"
    lists: str = "ImageSets/Segmentation"
    images: str = "JPEGImages"
    masks: str = "SegmentationClass"
    annotations: str | None = "Annotations"

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, masks, notes = root.index(self.images), root.index(self.masks), self._notes(root)
        for stem in read_stems(root, f"{self.lists}/{self.split}.txt"):
            found = images.find(stem) or [missing_image(f"{images.folder}/{stem}.jpg", stem)]
            mask = masks.find(stem)
            note = notes.find(stem) if notes is not None else []
            fields = {"mask": mask[0].path if mask else None, "note": note[0].path if note else None}
            stamp = json.dumps([found[0].stamp, [m.stamp for m in mask], [n.stamp for n in note]])
            problem = found[0].problem or pairing_problem(stem, mask, masks) or (note[0].problem if note else None)
            yield Entry(found[0].path, stamp, fields, problem)

    def _notes(self, root: Root) -> FileIndex | None:
        if self.annotations is None or not root.has_folder(self.annotations):
            return None
        return root.index(self.annotations, frozenset((".xml",)))

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root = self.reader()
        note = entry.fields["note"]
        words = None
        if note is not None:
            objects = parse_voc_xml(root.read(note, Reason.BAD_ANNOTATION), note)
            words = tuple(sorted({o.name for o in objects}))
        mask = root.read(entry.fields["mask"], Reason.MISSING_MASK)
        return RawSample(image=root.read(entry.key), mask=mask, words=words)


def parse_voc_xml(data: bytes, where: str = "annotation") -> list[VocObject]:
    """Objects of a VOC annotation file. VOC counts pixels from 1 and includes the last one; boxes here do neither.

    Raises:
        ContractError: no XML, XML with entities or a DTD, or an object without a name or a sensible box.
    """
    try:
        top = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise bad_annotation(where, "a VOC annotation", f"{type(error).__name__}: {error}", "mend the XML") from error
    return [_object(node, where) for node in top.findall("object")]


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
