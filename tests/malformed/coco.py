"""COCO files that mean nothing, or too much."""

from collections.abc import Callable
from typing import Any

from tests.malformed.cases import Case, Files, of_source, text
from tests.malformed.files import mask, picture, png

Row = dict[str, Any]
IMAGE: Row = {"id": 1, "file_name": "a.png", "height": 24, "width": 32}
RING = [2, 2, 20, 2, 20, 20]
NOTE: Row = {"id": 1, "image_id": 1, "category_id": 18, "segmentation": [RING], "iscrowd": 0}
DOG: Row = {"id": 18, "name": "dog"}


def _set(images: object = None, annotations: object = None, categories: object = None) -> Row:
    return {
        "images": [IMAGE] if images is None else images,
        "annotations": [NOTE] if annotations is None else annotations,
        "categories": [DOG] if categories is None else categories,
    }


def coco(name: str, document: "Callable[[], object] | object", expected: str, **options: Any) -> Case:
    """A COCO file beside one photo; `document` is text, or becomes JSON."""

    def files() -> Files:
        value = document() if callable(document) else document
        data = value if isinstance(value, bytes | str) else text(value)
        return {"images/a.png": picture(), "pan/a.png": mask(1), "a.json": data}

    return of_source(name, "coco", files, expected, **{"annotations": "a.json", **options})


def note(name: str, expected: str, **fields: Any) -> Case:
    """One annotation with other fields."""
    options = fields.pop("options", {})
    return coco(name, lambda: _set(annotations=[{**NOTE, **fields}]), expected, **options)


def image(name: str, expected: str, **fields: Any) -> Case:
    """One image record with other fields."""
    return coco(f"image, {name}", lambda: _set(images=[{**IMAGE, **fields}]), expected)


def panoptic(name: str, expected: str, segments: object, **fields: Any) -> Case:
    """One panoptic annotation."""
    one = {"image_id": 1, "file_name": "a.png", "segments_info": segments, **fields}
    return coco(f"panoptic, {name}", lambda: _set(annotations=[one]), expected, panoptic="pan")


BAD = "bad_annotation"
CASES = [
    coco("empty file", "", r"a\.json.*JSON"),
    coco("cut off", '{"images": [{"id": 1', r"a\.json.*JSON"),
    coco("no JSON", "hello", r"a\.json.*JSON"),
    coco("a list", "[]", r"a\.json.*results names no images"),
    coco("bytes that are no text", b"\xff\x00{", r"a\.json"),
    coco(
        "nested 100,000 deep", '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply|bad_annotation"
    ),
    coco("no images", "{}", "nothing to ingest"),
    coco("images as a number", {"images": 3}, f"nothing to ingest|{BAD}"),
    coco("images as text", '{"images": ["a.png", 7, null]}', BAD),
    coco(
        "an id of 400 digits",
        '{"images":[{"id":1,"file_name":"a.png"}],"annotations":[{"id":1'
        + "0" * 400
        + ',"image_id":1,"category_id":18,"segmentation":[[2,2,9,2,9,9]]}],"categories":[{"id":18,"name":"dog"}]}',
        "kept",
    ),
    coco("an image id of 5,000 digits", '{"images":[{"id":' + "9" * 5000 + ',"file_name":"a.png"}]}', BAD),
    image("an id that is a list", BAD, id=[1]),
    image("no id", BAD, id=None),
    image("no file name", BAD, file_name=None),
    image("a file name that is a number", BAD, file_name=7),
    image("an absolute file name", "unsafe_path|missing_image", file_name="/etc/passwd"),
    image("a file name that climbs", "unsafe_path", file_name="../../etc/passwd"),
    image("a file name with NUL", "unsafe_path", file_name="a\0.png"),
    image("a file that is not there", "missing_image", file_name="b.png"),
    image("a file name of 5,000 characters", "unsafe_path", file_name="x" * 5000),
    image("height of text", BAD, height="tall"),
    image("height of 1e300", f"{BAD}|image_too_large", height=1e300),
    image("height that is infinite", BAD, height=float("inf")),
    image("sides of 2^31", "image_too_large", height=2**31, width=2**31),
    image("sides swapped", BAD, height=32, width=24),
    image("sides of another photo", "size_mismatch", height=48, width=64),
    coco("two photos of one id", lambda: _set(images=[IMAGE, {**IMAGE, "file_name": "b.png"}]), BAD),
    note("of an unknown image", "missing_image", image_id=9),
    note("of an image that is a list", BAD, image_id=[1]),
    note("of an unknown category", "unknown_class_name", category_id=99),
    note("without a category", "unknown_class_name", category_id=None),
    note("of a category that is a list", "unknown_class_name", category_id=[18]),
    coco(
        "a category of no class",
        lambda: _set(categories=[{"id": 18, "name": "unicorn"}]),
        "unknown_class_name.*unicorn",
    ),
    coco("a category with two names", lambda: _set(categories=[DOG, {"id": 18, "name": "cat"}]), BAD),
    note("a polygon of two points", BAD, segmentation=[[1, 2, 3, 4]]),
    note("a polygon of odd numbers", BAD, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
    note("a polygon of words", BAD, segmentation=[["a"] * 6]),
    note("a polygon of null", BAD, segmentation=[[None] * 6]),
    note("a polygon with NaN", BAD, segmentation=[[float("nan"), *RING[1:]]]),
    note("a polygon with infinity", BAD, segmentation=[[float("inf"), *RING[1:]]]),
    note("a polygon far outside", BAD, segmentation=[[1e9, *RING[1:]]]),
    note("a polygon of shares", f"{BAD}.*shares", segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]),
    note("an outline that zigzags for 5 million pixels", f"{BAD}.*outline", segmentation=[[0, 0, 64, 24] * 80_000]),
    note("a number as outline", BAD, segmentation=7),
    note("text as outline", BAD, segmentation="outline"),
    note("outlines nested 60 deep", BAD, segmentation=[[[[[[RING]]]]]]),
    note("no outline and no box", BAD, segmentation=[]),
    note("a box alone", f"{BAD}.*source.boxes", segmentation=[], bbox=[1, 2, 9, 9]),
    note("a box of no size", BAD, segmentation=[], bbox=[1, 2, 0, 9]),
    note("a box with infinity", BAD, segmentation=[], bbox=[1, 2, float("inf"), 9], options={"boxes": "fill"}),
    note("iscrowd maybe", BAD, iscrowd="maybe"),
    note("iscrowd of a list", BAD, iscrowd=[1]),
    note("run lengths of another size", BAD, segmentation={"size": [9, 9], "counts": [81]}),
    note("run lengths of no size", BAD, segmentation={"counts": [768]}),
    note("run lengths with another sum", BAD, segmentation={"size": [24, 32], "counts": [5, 5]}),
    note("negative run lengths", BAD, segmentation={"size": [24, 32], "counts": [-2, 770]}),
    note("run lengths as text of other letters", BAD, segmentation={"size": [24, 32], "counts": "\x01\x02~~"}),
    note("run lengths cut off", BAD, segmentation={"size": [24, 32], "counts": "oooo"}),
    note("run lengths of 2^62", BAD, segmentation={"size": [24, 32], "counts": "ooooooooooo7"}),
    note("run lengths as an object", BAD, segmentation={"size": [24, 32], "counts": {}}),
    note("run lengths of a size of 2^40", BAD, segmentation={"size": [2**20, 2**20], "counts": [2**40]}),
    coco(
        "50,001 objects on a photo",
        lambda: _set(annotations=[{**NOTE, "id": n} for n in range(50_001)]),
        f"{BAD}.*50,000 objects",
    ),
    coco("nothing on the photo", lambda: _set(annotations=[]), "empty_foreground"),
    panoptic("segments as a number", BAD, 7),
    panoptic("segments of numbers", BAD, [7]),
    panoptic("an id that is a list", BAD, [{"id": [1], "category_id": 18}]),
    panoptic("an id as text", BAD, [{"id": "1", "category_id": 18}]),
    panoptic("an id twice", BAD, [{"id": 1, "category_id": 18}, {"id": 1, "category_id": 17}]),
    panoptic("a segment that nobody lists", f"{BAD}.*segment 1 ", [{"id": 9, "category_id": 18}]),
    panoptic("no file name", BAD, [], file_name=None),
    panoptic("a PNG that is not there", "missing_mask", [], file_name="b.png"),
    panoptic("a PNG elsewhere", "unsafe_path", [], file_name="../../b.png"),
    of_source(
        "panoptic bomb",
        "coco",
        lambda: {
            "images/a.png": picture(),
            "pan/a.png": png(60000, 60000),
            "a.json": text(_set(annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": []}])),
        },
        "image_too_large",
        annotations="a.json",
        panoptic="pan",
    ),
    of_source("no such file", "coco", lambda: {"images/a.png": picture()}, r"no file 'a\.json'", annotations="a.json"),
]
