"""A trained artifact over a folder of photos: a mask, a confidence map and an overlay for each."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    ContractError,
    Instance,
    LabelSpace,
    Uint8Array,
    decode_image,
    encode_image,
    encode_mask,
)
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.ingest.base import Entry
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.trainers.engine import PredictConfig
from maskmill.trainers.registry import load_artifact
from maskmill.vision.crf_options import CrfOptions

BATCH = 8
Photo = tuple[str, int, int, tuple[Instance, ...]]  # name, height, width, objects
VOC_SERVER = "results/VOC2012/Segmentation/comp6_test_cls"


@dataclass(frozen=True)
class Predicted:
    """What became of one photo: its classes, or why it has no mask."""

    name: str
    classes: tuple[str, ...] = ()
    problem: str | None = None


class PredictOptions(BaseModel):
    """How photos reach the artifact, what follows, and how masks are laid out.

    `voc_server`: masks go to OUT/results/VOC2012/Segmentation/comp6_test_cls/STEM.png, as VOC's server takes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    predict: PredictConfig | None = Field(default=None, description="scales, flip, window; none = the artifact's own")
    crf: CrfOptions | None = Field(default=None, description="a dense CRF after the segmenter")
    layout: Literal["folders", "voc_server"] = Field(default="folders", description="where masks go")

    @property
    def masks(self) -> str:
        return VOC_SERVER if self.layout == "voc_server" else "masks"


def predict_photos(
    artifact: str,
    images: str,
    out: str,
    *,
    device: str = "auto",
    options: PredictOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Predicted]:
    """Predict every photo under `images`, in the order of their names.

    Writes OUT/masks/STEM.png (class ids in the space's palette), OUT/confidence/STEM.png (255 = certain),
    OUT/overlays/STEM.png, OUT/classes.json, OUT/predictions.json, and their hashes in OUT/sums.json; of artifacts that
    tell objects apart also OUT/instances.json (COCO, with scores). Photos that cannot be read are listed in
    predictions.json.

    Raises:
        FileNotFoundError: no artifact, or no such folder. ValueError: no photo in it, or an artifact of another kind.
        RunLockedError: another process writes to this folder.
    """
    from maskmill.trainers.engine import read_info

    check_photos(images)
    space = read_info(artifact).label_space
    predictor = load_artifact(artifact, device)
    entries = sorted(FolderSource(root=images, images="", masks=None).entries(), key=lambda entry: entry.key)
    if not entries:
        raise ValueError(f"{images}: expected photos, found none")
    done: list[Predicted] = []
    objects: list[Photo] = []
    with working(out), Listed(out) as files:
        for batch in _batches(iter(entries)):
            done += _predict(predictor, artifact, batch, images, files, space, options or PredictOptions(), objects)
            if progress is not None:
                progress(len(done))
        files.write("classes.json", _json({c.id: c.name for c in space.classes}))
        files.write("predictions.json", _json([vars(one) for one in done]))
        if objects:
            files.write("instances.json", _json(objects_document(objects, space)))
    return done


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _predict(
    predictor: Any,
    artifact: str,
    batch: list[Entry],
    images: str,
    files: Listed,
    space: LabelSpace,
    options: PredictOptions,
    objects: list[Photo],
) -> Iterator[Predicted]:
    source = FolderSource(root=images, images="", masks=None)
    pixels: dict[str, Uint8Array] = {}
    for entry in batch:
        try:
            if entry.problem is not None:
                raise ContractError(entry.key, entry.problem)
            pixels[entry.key] = decode_image(source.reader().read(entry.key), entry.key)
        except ContractError as error:
            yield Predicted(entry.key, problem=str(error.problem))
    for name, found in zip(pixels, _ask(predictor, artifact, list(pixels.values()), options), strict=True):
        labels = found.labels
        stem = PurePosixPath(name).with_suffix("")
        files.write(f"{options.masks}/{stem}.png", encode_mask(labels, space.palette))
        files.write(f"confidence/{stem}.png", encode_mask(found.confidence))
        files.write(f"overlays/{stem}.png", encode_image(overlay(pixels[name], labels, space)))
        if hasattr(found, "instances"):
            objects.append((name, labels.shape[0], labels.shape[1], found.instances))
        present = (c.name for c in space.classes if (labels == c.id).any())
        yield Predicted(name, tuple(present))


def objects_document(photos: Sequence[Photo], space: LabelSpace) -> dict[str, Any]:
    """Objects with their scores as COCO has them; masks are compressed run lengths, category ids the space's own."""
    notes: list[dict[str, Any]] = []
    for number, (_, height, width, objects) in enumerate(photos, start=1):
        for one in objects:
            if one.runs is not None:
                x0, y0, x1, y1 = one.box
                place = {"id": len(notes) + 1, "image_id": number, "category_id": one.class_id, "iscrowd": 0}
                area = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": one.runs.area, "score": one.score}
                notes.append({**place, **area, "segmentation": {"size": [height, width], "counts": one.runs.text}})
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, height, width, _) in enumerate(photos, start=1)
    ]
    categories = [{"id": c.id, "name": c.name} for c in space.classes]
    return {"images": images, "annotations": notes, "categories": categories}


def _ask(predictor: Any, artifact: str, images: list[Uint8Array], options: PredictOptions) -> list[Any]:
    """The predictor's answers, where it gives label maps of images alone.

    Raises:
        ValueError: an artifact that needs more than images; says which command takes it.
    """
    from maskmill.trainers.engine import with_crf

    if not images:
        return []
    try:
        found = list(
            predictor.predict(images) if options.predict is None else predictor.predict(images, options.predict)
        )
    except (AttributeError, TypeError) as error:
        raise ValueError(_other_kind(artifact)) from error
    if not hasattr(found[0], "labels"):
        raise ValueError(_other_kind(artifact))
    return found if options.crf is None else with_crf(found, images, options.crf)


def _other_kind(artifact: str) -> str:
    return (
        f"{artifact}: expected an artifact that predicts masks of photos alone, found one that needs more; labelers"
        " take it: maskmill label few-shot, co-saliency, video or a2gnn"
    )


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
