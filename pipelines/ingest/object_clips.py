"""Clips whose masks are black and white files, one an object: SegTrack v2 and YouTube-Objects as they are unpacked."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, Uint8Array, decode_image
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, unknown_class
from maskmill.pipelines.ingest.davis import sequence_names
from maskmill.pipelines.ingest.files import File, FileIndex, Root


class WhiteClips(Source):
    """What both share: an entry has `masks`, paths with the class (name or id) of their white pixels, in order."""

    white: int = Field(default=128, ge=1, le=255, description="mask values from here on are the object")
    allow_empty: bool = Field(default=True, description="take frames in which no object is seen: objects leave")

    def group_of(self, entry: Entry) -> str | None:
        """The clip."""
        group: str | None = entry.fields.get("group")
        return group

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        masks = [(_white(root, path, self.white), _class_id(space, word, entry.key)) for path, word in fields["masks"]]
        return RawSample(
            image=root.read(entry.key),
            drawn=_drawn(masks, space, fields["masks"]) if masks else None,
            group=fields["group"],
            index=fields["index"],
        )


class SegTrackSource(WhiteClips):
    """`root` is the folder SegTrackv2. Objects of a clip are 1, 2, … as its folders in GroundTruth are; a clip of one
    object has its masks there without such a folder. Where two objects claim a pixel it is the later one's.
    """

    kind: Literal["segtrack"] = Field(default="segtrack", description="kind of the source")
    images: str = Field(default="JPEGImages", description="folder of the sequences' frames under the root")
    masks: str = Field(default="GroundTruth", description="folder of the sequences' masks under the root")
    lists: str = Field(default="ImageSets", description="folder of the lists under the root: SPLIT.txt, SEQUENCE.txt")
    split: str = Field(default="all", description="name of the list of sequences, without .txt")

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, masks = root.index(self.images), root.index(self.masks)
        for name in sequence_names(root, self.lists, self.split):
            yield from self._clip(root, name.lstrip("*").strip("/"), images, masks)

    def _clip(self, root: Root, name: str, images: FileIndex, masks: FileIndex) -> Iterator[Entry]:
        stems = sequence_names(root, self.lists, name)[1:]  # the first line says the folder
        objects = 0
        while root.has_folder(f"{self.masks}/{name}/{objects + 1}"):
            objects += 1
        places = [f"{name}/{number}" for number in range(1, objects + 1)] or [name]
        for index, stem in enumerate(stems):
            image = _one(images, f"{name}/{stem}", Reason.MISSING_IMAGE)
            found = [_one(masks, f"{place}/{stem}", Reason.MISSING_MASK) for place in places]
            problem = next((p for p in (image, *found) if isinstance(p, Problem)), None)
            files = [file for file in (image, *found) if isinstance(file, File)]
            yield Entry(
                image.path if isinstance(image, File) else f"{self.images}/{name}/{stem}",
                json.dumps([file.stamp for file in files]),
                {"group": name, "index": index, "masks": [[f.path, n] for n, f in enumerate(files[1:], start=1)]},
                problem,
            )


class YoutubeObjectsSource(WhiteClips):
    """`root` holds v1 (CLASS/data/VIDEO/shots/SHOT/frameNNNN.jpg) and youtube_masks (the same with labels/NNNNN.jpg,
    every tenth frame or so): masks of Jain and Grauman. Each shot is a clip; white is its class.
    """

    kind: Literal["youtube_objects"] = Field(default="youtube_objects", description="kind of the source")
    images: str = Field(default="v1", description="folder of the classes' frames under the root")
    masks: str = Field(default="youtube_masks", description="folder of the classes' masks under the root")
    shared: str | None = Field(
        default=None, description="class of all white pixels, such as an object of `objects`; null = the folder's name"
    )
    unlabelled: bool = Field(default=False, description="take the frames without a mask as well")
    white: int = Field(default=16, ge=1, le=255, description="mask values from here on are the object: they are JPEG")

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        masks = root.index(self.masks)
        for _, image in root.index(self.images):
            path = PurePosixPath(image.path).relative_to(self.images)
            number = re.fullmatch(r"frame(\d+)", path.stem)
            if len(path.parts) != 6 or number is None:
                continue
            index, shot = int(number.group(1)), path.parent
            found = masks.find(f"{shot}/labels/{index:05d}")
            if found or self.unlabelled:
                group = "/".join((path.parts[0], path.parts[2], path.parts[4]))
                named = [[file.path, self.shared or path.parts[0]] for file in found[:1]]
                stamp = json.dumps([image.stamp, *(file.stamp for file in found[:1])])
                yield Entry(image.path, stamp, {"group": group, "index": index, "masks": named}, image.problem)


def _one(files: FileIndex, stem: str, missing: Reason) -> File | Problem:
    found = files.find(stem)
    if len(found) == 1:
        return found[0].problem or found[0]
    what = files.instead(stem) if not found else ", ".join(file.path for file in found)
    return Problem(missing, f"one file {files.folder}/{stem}.*", what, "unpack the data set whole")


def _white(root: Root, path: str, least: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """Pixels of a black and white picture that are white, bool (H, W)."""
    picture = decode_image(root.read(path, Reason.MISSING_MASK), path)
    white: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = picture.max(axis=2) >= least
    return white


def _class_id(space: LabelSpace, word: str | int, where: str) -> int:
    if isinstance(word, int) and word in space.by_id:
        return word
    try:
        return space.find(str(word)).id
    except KeyError:
        raise unknown_class(str(word), space, where) from None


def _drawn(
    masks: "list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.bool_]], int]]",
    space: LabelSpace,
    names: list[list[str]],
) -> Uint8Array:
    canvas: Uint8Array = np.full(masks[0][0].shape, space.background_id or 0, np.uint8)
    for (mask, class_id), (path, _) in zip(masks, names, strict=True):
        if mask.shape != canvas.shape:
            found = "{1}x{0}".format(*mask.shape)
            expected = "masks of one size ({1}x{0})".format(*canvas.shape)
            raise ContractError(path, Problem(Reason.SIZE_MISMATCH, expected, found, "unpack the data set again"))
        canvas[mask] = class_id
    return canvas
