"""Anything that datumaro reads: CVAT XML, LabelMe XML, KITTI, CamVid, ADE20K, Open Images, … Needs `pip install
datumaro`.
"""

import importlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, content_id
from maskmill.data_contracts.rle import pack_mask
from maskmill.pipelines.ingest.base import Entry, RawSample, Source
from maskmill.pipelines.ingest.class_files import Named, space_of
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.ingest.shapes import Boxes, Note, draw_shapes, empty_photo, sized

EVERYTHING = frozenset(("",))
_loading = threading.Lock()


class DatumaroSource(Source):
    """A local folder in one of datumaro's formats; `format` is its name there, e.g. cvat, label_me, kitti_segmentation,
    camvid, ade20k2017, open_images. Polygons and masks are drawn, `boxes` says what becomes of boxes; labels of the
    whole photo are what it was asked to show; points, lines and captions are left out and counted. datumaro holds all
    annotations in memory; the files are in its care, so what it does not read is not counted.
    """

    kind: Literal["datumaro"] = Field(default="datumaro", description="kind of the source")
    format: str = Field(
        description="datumaro's name of the format: cvat, label_me, kitti_segmentation, camvid, ade20k2017, …"
    )
    boxes: Boxes = Field(
        default="reject",
        description="objects that have a box and no outline: reject the sample, ignore (255 in the box), fill (the "
        "box is the object), or label (255, and the box is kept for a box labeler)",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        stamp = self._stamp(root)
        for item in _dataset(self._place(root), self.format, stamp):
            key = _inside(item.media, root)
            fields = {"item": item.id, "subset": item.subset, "stamp": stamp, "image": key}
            problem = None
            if key is None:
                fix = "put the photos where the annotations say, below the root"
                problem = Problem(Reason.MISSING_IMAGE, f"the photo of {item.id}", "none below the root", fix)
            yield Entry(key or f"{item.subset}/{item.id}", stamp, fields, problem)

    def own_space(self) -> LabelSpace:
        """The label categories of the dataset, numbered 1, 2, …"""
        root = self.open_root()
        names = _names(_dataset(self._place(root), self.format, self._stamp(root)))
        named: list[Named] = [(number, name, None) for number, name in enumerate(names)]
        return space_of(self.space_name, named, f"{self.root} ({self.format})", keep_ids=False)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        with _loading:  # datumaro reads masks when they are asked for, one thread at a time
            dataset = _dataset(self._place(root), self.format, fields["stamp"])
            found = dataset.get(fields["item"], fields["subset"])
            notes, words, others = _notes(found.annotations, _names(dataset))
        if not notes and not words and (problem := empty_photo(self)) is not None:
            raise ContractError(entry.key, problem)
        image = root.read(fields["image"])
        size = sized(image, entry.key, self.max_pixels).upright
        sample = draw_shapes(image, notes, size, entry.key, space, self.boxes)
        return RawSample(
            image=image,
            drawn=sample.drawn if notes or not words else None,
            instances=sample.instances if notes or not words else None,
            words=tuple(words) or None,
            notes={**sample.notes, **{f"{kind} left out": number for kind, number in others.items()}},
        )

    def _place(self, root: Root) -> str:
        if not root.local or root.is_file:
            raise ValueError(f"{self.root}: source datumaro reads local folders; copy the data, or unpack them, first")
        return str(root.base)

    def _stamp(self, root: Root) -> str:
        """Changes with any file: annotations may lie in all of them."""
        files = sorted((file.path, file.stamp) for file in root.walk("", EVERYTHING))
        return content_id(*(part for file in files for part in file))


@lru_cache(maxsize=2)
def _dataset(place: str, kind: str, stamp: str) -> Any:
    """The dataset, read once a process; `stamp` tells a changed folder from the old one."""
    try:
        datumaro = importlib.import_module("datumaro")
    except ImportError as error:
        raise ValueError("source datumaro needs datumaro: pip install 'maskmill[datumaro]'") from error
    known = sorted(datumaro.Environment().importers)
    if kind not in known:
        raise ValueError(f"source.format: {kind!r} is no format of datumaro; there is: {', '.join(known)}")
    try:
        return datumaro.Dataset.import_from(place, kind)
    except Exception as error:  # each format fails in its own way
        found = f"{type(error).__name__}: {error}"[:300]
        raise ValueError(
            f"{place}: expected a dataset in the format {kind}, found {found}. Fix: name another"
        ) from error


def _names(dataset: Any) -> list[str]:
    labels = next((c for kind, c in dataset.categories().items() if kind.name == "label"), None)
    return [] if labels is None else [str(item.name) for item in labels.items]


def _inside(media: Any, root: Root) -> str | None:
    """Path of an item's photo below the root."""
    path = getattr(media, "path", None)
    if not path or not os.path.isfile(path):
        return None
    inside = os.path.relpath(path, root.base).replace(os.sep, "/")
    return None if inside.startswith("../") else inside


def _notes(annotations: list[Any], names: list[str]) -> tuple[list[Note], list[str], Counter[str]]:
    """Annotations with an area, labels of the whole photo, and how many there are of other kinds."""
    notes: list[Note] = []
    words: list[str] = []
    others: Counter[str] = Counter()
    for number, one in enumerate(annotations):
        kind, label = one.type.name, getattr(one, "label", None)
        name = names[label] if label is not None and 0 <= label < len(names) else "an object without a label"
        note: Note = {"id": getattr(one, "id", 0) or number, "name": name}
        if kind == "polygon":
            notes.append({**note, "segmentation": [[float(v) for v in one.points]]})
        elif kind in ("mask", "ellipse"):
            pixels = one.image if kind == "mask" else None
            mask = None if pixels is None else np.asarray(pixels) != 0
            if mask is None:
                others[kind] += 1
            elif mask.any():
                notes.append({**note, "segmentation": {"size": list(mask.shape), "counts": pack_mask(mask)}})
        elif kind == "bbox":
            notes.append({**note, "segmentation": [], "bbox": [float(v) for v in one.get_bbox()]})
        elif kind == "label":
            words.append(name)
        else:
            others[kind] += 1
    return notes, words, others
