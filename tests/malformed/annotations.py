"""Annotation files of VOC, YOLO, labelme, SA-1B and lists of other tools."""

import base64
from collections.abc import Callable
from typing import Any

from maskmill.data_contracts import LabelSpace
from tests.malformed.cases import Case, Files, of_source, text
from tests.malformed.files import frames, mask, picture, png

BAD, ONE = "bad_annotation", LabelSpace.from_names(["dog"])
DEEP = "[" * 100_000 + "]" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "'
    + "x" * 999
    + '">]><annotation><object><name>&a;</name></object></annotation>'
)


def voc(name: str, xml: "str | bytes", expected: str) -> Case:
    """A sound VOC sample with an XML file."""

    def files() -> Files:
        lists = "ImageSets/Segmentation/trainval.txt"
        return {
            "JPEGImages/a.jpg": picture("JPEG"),
            "SegmentationClass/a.png": mask(),
            "Annotations/a.xml": xml,
            lists: "a\n",
        }

    return of_source(name, "voc", files, expected)


def voc_list(name: str, lines: "str | bytes", expected: str) -> Case:
    """A sound VOC sample with a list."""

    def files() -> Files:
        lists = "ImageSets/Segmentation/trainval.txt"
        return {"JPEGImages/a.jpg": picture("JPEG"), "SegmentationClass/a.png": mask(), lists: lines}

    return of_source(f"list, {name}", "voc", files, expected)


def yolo(name: str, label: "str | bytes", expected: str, data: str = "names: [dog]", **options: Any) -> Case:
    """A sound photo with an outline file."""

    def files() -> Files:
        return {"images/a.jpg": picture("JPEG"), "labels/a.txt": label, "data.yaml": data}

    return of_source(name, "yolo", files, expected, **options)


def labelme(name: str, expected: str, document: object = None, photo: bool = True, **shape: Any) -> Case:
    """A labelme file of one shape beside a photo."""

    def files() -> Files:
        one = {"label": "dog", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon", **shape}
        value = {"imagePath": "a.png", "shapes": [one]} if document is None else document
        data = value if isinstance(value, bytes | str) else text(value)
        return {**({"a.png": picture()} if photo else {}), "a.json": data}

    return of_source(name, "labelme", files, expected)


def in_base64(make: Callable[[], bytes]) -> str:
    return base64.b64encode(make()).decode()


def sa1b(name: str, expected: str, document: object, space: "str | LabelSpace" = ONE) -> Case:
    """A photo with a JSON file of its stem."""
    data = document if isinstance(document, bytes | str) else text(document)
    return of_source(name, "sa1b", lambda: {"a.jpg": picture("JPEG"), "a.json": data}, expected, space)


def rows(name: str, expected: str, data: "str | bytes") -> Case:
    """Rows of Dataset Diffusion."""

    def files() -> Files:
        return {"images/a.png": picture(), "masks/a.png": mask(), "prompts.json": data}

    return of_source(name, "dataset_diffusion", files, expected)


def table(name: str, expected: str, file: str, data: "str | bytes") -> Case:
    """Metadata of an imagefolder."""
    return of_source(name, "imagefolder", lambda: {"a.png": picture(), "m.png": mask(), file: data}, expected)


def tags(name: str, expected: str, data: "str | bytes") -> Case:
    """Tags of a folder."""

    def files() -> Files:
        return {"images/a.png": picture(), "masks/a.png": mask(), "tags.json": data}

    return of_source(f"tags, {name}", "folder", files, expected, tags="tags.json")


CASES = [
    voc("no XML", "hello", f"{BAD}.*XML"),
    voc("empty", "", f"{BAD}.*XML"),
    voc("cut off", "<annotation><object>", f"{BAD}.*XML"),
    voc("entities", ENTITIES, f"{BAD}.*entities"),
    voc("a document type", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', f"{BAD}.*document type"),
    voc("an encoding that nobody knows", '<?xml version="1.0" encoding="klingon"?><annotation/>', BAD),
    voc(
        "an encoding that lies", b'<?xml version="1.0" encoding="gb2312"?><annotation>' + b"\xff\xff</annotation>", BAD
    ),
    voc("no name", "<annotation><object/></annotation>", f"{BAD}.*name"),
    voc("a class of nobody", "<annotation><object><name>unicorn</name></object></annotation>", "unknown_class_name"),
    voc(
        "a name of 100,000 letters",
        f"<annotation><object><name>{'x' * 100_000}</name></object></annotation>",
        "unknown_class_name",
    ),
    voc("elements 100,000 deep", "<a>" * 100_000 + "</a>" * 100_000, "kept|bad_annotation"),
    voc("three million elements", "<annotation>" + "<a/>" * 3_000_000 + "</annotation>", f"{BAD}.*tags"),
    voc_list("a photo that is not there", "b\n", "missing_image"),
    voc_list("a path that climbs", "../../../etc/passwd\n", "unsafe_path"),
    voc_list("an absolute path", "/etc/passwd\n", "unsafe_path|missing_image"),
    voc_list("bytes that are no text", b"\xff\xfe\xfd", "trainval.txt"),
    voc_list("a line of a million letters", "x" * 1_000_000, f"{BAD}.*10,000 characters"),
    voc_list("a line of 3,000 words", "x " * 3000, "unsafe_path"),
    voc_list("the same photo twice", "a\na\n", "duplicate_id"),
    of_source(
        "no list", "voc", lambda: {"JPEGImages/a.jpg": picture(), "SegmentationClass/a.png": mask()}, "trainval.txt"
    ),
    yolo("no names", "", "names", data="nc: 1"),
    yolo("names as a number", "", "names", data="names: 7"),
    yolo("a tab in data.yaml", "", "data.yaml", data="names:\t[a\n\t- b"),
    yolo("aliases of aliases", "", "data.yaml.*aliases", data=BOMB + "names: *i\n"),
    yolo("data.yaml nested 100,000 deep", "", "data.yaml.*deep", data=DEEP),
    yolo("data.yaml with a Python object", "", "data.yaml", data="names: !!python/object/apply:os.system [id]"),
    yolo("a class that is none", "5 0.1 0.1 0.5 0.1 0.5 0.5", BAD),
    yolo("a class of NaN", "nan 0.1 0.1 0.5 0.1 0.5 0.5", BAD),
    yolo("words", "dog 0.1 0.1", f"{BAD}.*numbers"),
    yolo("pixels", "0 10 10 50 10 50 50", f"{BAD}.*divide"),
    yolo("NaN", "0 nan 0.1 0.5 0.1 0.5 0.5", BAD),
    yolo("infinity", "0 inf 0.1 0.5 0.1 0.5 0.5", BAD),
    yolo("odd numbers", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", BAD),
    yolo("one number", "0", BAD),
    yolo("a box", "0 0.5 0.5 0.2 0.2", f"{BAD}.*boxes"),
    yolo("bytes that are no text", b"\xff\xfe\x00\x01", f"{BAD}.*no text"),
    yolo(
        "an outline that zigzags",
        "0 " + "0 0 1 1 " * 100_000,
        f"{BAD}.*outline",
    ),
    yolo("another class of the space", "0 0.1 0.1 0.5 0.1 0.5 0.5", "unknown_class_name", data="names: [unicorn]"),
    yolo("a split that is not there", "", "train", split="train"),
    labelme("no JSON", BAD, "hello"),
    labelme("a list", BAD, "[]"),
    labelme("bytes that are no text", BAD, b"\xff\xfe\xfd"),
    labelme("nested 100,000 deep", f"{BAD}.*deep", DEEP),
    labelme("three million brackets", f"{BAD}.*brackets", '{"shapes": [' + "[]," * 3_000_000 + "[]]}"),
    labelme("shapes as text", BAD, {"imagePath": "a.png", "shapes": "none"}),
    labelme("shapes of numbers", BAD, {"imagePath": "a.png", "shapes": [7]}),
    labelme(
        "a size of another photo",
        "size_mismatch",
        {"imagePath": "a.png", "imageHeight": 9, "imageWidth": 9, "shapes": []},
    ),
    labelme("a photo elsewhere", "missing_image", {"imagePath": "../../etc/passwd", "shapes": []}, photo=False),
    labelme("a photo in base64 that is none", BAD, {"imageData": "§§§", "shapes": []}, photo=False),
    labelme(
        "a photo in base64 that is text",
        "undecodable_image",
        {"imageData": in_base64(lambda: b"hello"), "shapes": []},
        photo=False,
    ),
    labelme("points as text", BAD, points="none"),
    labelme("points of three numbers", BAD, points=[[1, 2, 3]]),
    labelme("points of NaN", BAD, points=[[float("nan"), 1], [9, 1], [9, 9]]),
    labelme("points of infinity", BAD, points=[[float("inf"), 1], [9, 1], [9, 9]]),
    labelme("points of 400 digits", BAD, points=[[10**399, 1], [9, 1], [9, 9]]),
    labelme("a circle of infinite radius", BAD, shape_type="circle", points=[[1, 1], [1e308, 1e308]]),
    labelme("a line", f"{BAD}.*others", shape_type="line", points=[[1, 1], [9, 9]]),
    labelme("a shape of no kind", BAD, shape_type=["polygon"]),
    labelme("a label that is a number", BAD, label=7),
    labelme("a label of no class", "unknown_class_name", label="unicorn"),
    labelme(
        "a mask that is no PNG",
        "undecodable_mask",
        shape_type="mask",
        points=[[1, 1]],
        mask=in_base64(lambda: b"hello"),
    ),
    labelme("a mask that is no base64", BAD, shape_type="mask", points=[[1, 1]], mask="§"),
    labelme(
        "a mask beside the photo", BAD, shape_type="mask", points=[[30, 20]], mask=in_base64(lambda: mask(1, 9, 9))
    ),
    labelme(
        "a mask that is a bomb",
        "image_too_large",
        shape_type="mask",
        points=[[0, 0]],
        mask=in_base64(lambda: png(60000, 60000, 8, 0)),
    ),
    labelme(
        "a mask of two pages",
        "wrong_mask_format",
        shape_type="mask",
        points=[[0, 0]],
        mask=in_base64(lambda: frames("GIF")),
    ),
    labelme(
        "a mask at infinity", BAD, shape_type="mask", points=[[float("inf"), 0]], mask=in_base64(lambda: mask(1, 9, 9))
    ),
    sa1b("no JSON", BAD, "hello"),
    sa1b("no annotations", BAD, {}),
    sa1b("annotations of numbers", BAD, {"annotations": [7]}),
    sa1b(
        "run lengths of another size",
        BAD,
        {"annotations": [{"id": 1, "segmentation": {"size": [9, 9], "counts": "o1"}}]},
    ),
    sa1b(
        "run lengths of other letters",
        BAD,
        {"annotations": [{"id": 1, "segmentation": {"size": [24, 32], "counts": "~~"}}]},
    ),
    sa1b("two classes", f"{BAD}.*shared", {"annotations": []}, "voc"),
    rows("no JSON", r"prompts\.json.*JSON", "{"),
    rows("rows of numbers", BAD, "[7]"),
    rows("no filename", BAD, '[{"caption": "x"}]'),
    rows("a file that is not there", "missing_image", '[{"filename": "b"}]'),
    rows("a file elsewhere", "unsafe_path|missing_image", '[{"filename": "../../x"}]'),
    rows("a caption of numbers", BAD, '[{"filename": "a", "caption": 7}]'),
    rows("a class of nobody", "unknown_class_name", '[{"filename": "a", "class_prompt": "unicorn"}]'),
    rows("100,000 words", BAD, f'[{{"filename": "a", "class_prompt": "{"dog " * 100_000}"}}]'),
    rows("2,000 words that are none", "unknown_class_name", f'[{{"filename": "a", "class_prompt": "{"d " * 2000}"}}]'),
    rows("half a character", "kept", '[{"filename": "a", "caption": "cut \\ud83d"}]'),
    table("no JSON", BAD, "metadata.jsonl", "{"),
    table("rows of numbers", BAD, "metadata.jsonl", "7\n8\n"),
    table("a photo elsewhere", "missing_image|unsafe_path", "metadata.jsonl", '{"file_name": "../x.png"}'),
    table("no mask", "missing_mask", "metadata.jsonl", '{"file_name": "a.png"}'),
    table(
        "a label of objects",
        BAD,
        "metadata.jsonl",
        '{"file_name": "a.png", "mask_file_name": "m.png", "label": {"a": 1}}',
    ),
    table(
        "a CSV with NUL",
        "bad_annotation|missing_image|not_read",
        "metadata.csv",
        "file_name\0,mask_file_name\na.png,m.png\n",
    ),
    table(
        "a CSV cell of a million letters", BAD, "metadata.csv", f"file_name,mask_file_name\n{'x' * 1_000_000},m.png\n"
    ),
    table("no Parquet", BAD, "metadata.parquet", "hello"),
    tags("no JSON", r"tags\.json.*JSON", "hello"),
    tags("a list", r"tags\.json.*JSON", "[]"),
    tags("nested 100,000 deep", BAD, '{"a": ' + DEEP + "}"),
    tags("text", BAD, '{"a": "dog"}'),
    tags("a class of nobody", "unknown_class_name", '{"a": ["unicorn"]}'),
    tags("a number of 400 digits", "unknown_class_name", '{"a": [1' + "0" * 399 + "]}"),
    tags("the same photo twice", BAD, '{"a": ["dog"], "a": ["cat"]}'),
]
