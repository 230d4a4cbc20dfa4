"""ScribbleSup's strokes: XML files of open polylines, with VOC's classes under words of their own."""

from xml.etree.ElementTree import Element

import numpy as np

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.data_contracts.texts import TextError, parse_xml
from maskmill.pipelines.ingest.base import bad_annotation, unknown_class
from maskmill.vision.scribbles import Stroke

# ScribbleSup's own words for VOC's ids 0 to 20, in order.
SCRIBBLESUP = (
    *("background", "plane", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog"),
    *("horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor"),
)
MOST_POINTS = 1_000_000


def parse_scribble_xml(data: bytes, space: LabelSpace, where: str = "scribble") -> tuple[tuple[int, int], list[Stroke]]:
    """((height, width), strokes) of a ScribbleSup file: `polygon` elements are open polylines, despite their name.

    Raises:
        ContractError: no XML, XML with entities or a DTD, no size, a foreign name, or points that are no numbers.
    """
    try:
        top = parse_xml(data)
    except TextError as error:
        raise bad_annotation(where, "a ScribbleSup annotation", str(error)[:200], "mend the XML") from error
    height, width = (_whole(top.findtext(f"size/{side}"), where) for side in ("height", "width"))
    strokes = [_stroke(node, space, where) for node in top.findall("polygon")]
    if sum(len(stroke.points) for stroke in strokes) > MOST_POINTS:
        raise bad_annotation(where, f"at most {MOST_POINTS} points", "more", "thin the strokes out")
    return (height, width), strokes


def _stroke(node: Element, space: LabelSpace, where: str) -> Stroke:
    points = [(_whole(p.findtext("X"), where), _whole(p.findtext("Y"), where)) for p in node.findall("point")]
    if not points:
        raise bad_annotation(where, "a stroke with points", "none", "mend the XML")
    return Stroke(scribblesup_id((node.findtext("tag") or "").strip(), space, where), np.array(points, np.float64))


def scribblesup_id(word: str, space: LabelSpace, where: str) -> int:
    """Class id of a stroke's tag: ScribbleSup's short names are VOC's ids in order; other words are looked up."""
    voc = load_label_space("voc")
    if word == SCRIBBLESUP[0] and space.background_id is not None:
        return space.background_id
    name = voc.by_id[SCRIBBLESUP.index(word)].name if word in SCRIBBLESUP[1:] else word
    try:
        return space.find(name).id
    except KeyError:
        raise unknown_class(word, space, where) from None


def _whole(text: str | None, where: str) -> int:
    try:
        return round(float(text or ""))
    except (ValueError, OverflowError):
        raise bad_annotation(where, "whole numbers for size and points", repr(text), "mend the XML") from None
