"""Cityscapes as it is unpacked: leftImg8bit and gtFine (or gtCoarse), paired by city, sequence and frame."""

from typing import Literal

from pydantic import Field

from maskmill.pipelines.ingest.folder import FolderSource

# Label ids that Cityscapes' own evaluation leaves out, and the 19 classes that it counts, by name.
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
PAIR = r"(?P<key>.+)_(?:(?P<image>leftImg8bit)|(?P<mask>gt(?:Fine|Coarse)_labelIds))"


class CityscapesSource(FolderSource):
    """`root` holds leftImg8bit/SPLIT/CITY/… and gtFine/SPLIT/CITY/…. A preset of the folder
    source: label ids are mapped to the 19 classes by name, the others become ignore.
    """

    kind: Literal["cityscapes"] = Field(default="cityscapes", description="kind of the source")  # type: ignore[assignment]
    images: str = Field(default="leftImg8bit", description="folder of the photos under the root")
    masks: str | None = Field(
        default="gtFine", description="folder of the label files under the root; null = photos without masks"
    )
    pair: str | None = Field(
        default=PAIR,
        description="regular expression that pairs photo and label file; its group `key` is what both have in common",
    )
    remap: dict[int, int | str] = Field(
        default={**dict.fromkeys(VOID, "ignore"), **CLASSES},
        description="label id -> class name; by default the 19 classes, everything else ignore",
    )
