"""A trained artifact over a folder of photos: a mask, a confidence map and an overlay for each."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from maskmill.data_contracts import (
    ContractError,
    LabelSpace,
    Uint8Array,
    decode_image,
    encode_image,
    encode_mask,
    write_bytes,
)
from maskmill.pipelines.ingest.base import Entry
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.trainers.registry import load_artifact

BATCH = 8


@dataclass(frozen=True)
class Predicted:
    """What became of one photo: its classes, or why it has no mask."""

    name: str
    classes: tuple[str, ...] = ()
    problem: str | None = None


def predict_photos(
    artifact: str, images: str, out: str, *, device: str = "auto", progress: Callable[[int], None] | None = None
) -> list[Predicted]:
    """Predict every photo under `images`, in the order of their names.

    Writes OUT/masks/STEM.png (class ids in the space's palette), OUT/confidence/STEM.png (255 = certain),
    OUT/overlays/STEM.png, OUT/classes.json and OUT/predictions.json. Photos that cannot be read are listed there.

    Raises:
        FileNotFoundError: no artifact, or no such folder. ValueError: no photo in it, or an artifact of another kind.
    """
    from maskmill.trainers.engine import read_info

    if not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: expected a folder of photos, found none")
    space = read_info(artifact).label_space
    predictor = load_artifact(artifact, device)
    entries = sorted(FolderSource(root=images, images="", masks=None).entries(), key=lambda entry: entry.key)
    if not entries:
        raise ValueError(f"{images}: expected photos, found none")
    done: list[Predicted] = []
    for batch in _batches(iter(entries)):
        done += _predict(predictor, artifact, batch, images, out, space)
        if progress is not None:
            progress(len(done))
    write_bytes(f"{out}/classes.json", _json({c.id: c.name for c in space.classes}))
    write_bytes(f"{out}/predictions.json", _json([vars(one) for one in done]))
    return done


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _predict(
    predictor: Any, artifact: str, batch: list[Entry], images: str, out: str, space: LabelSpace
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
    for name, found in zip(pixels, _ask(predictor, artifact, list(pixels.values())), strict=True):
        labels = found.labels
        stem = PurePosixPath(name).with_suffix("")
        write_bytes(f"{out}/masks/{stem}.png", encode_mask(labels, space.palette))
        write_bytes(f"{out}/confidence/{stem}.png", encode_mask(found.confidence))
        write_bytes(f"{out}/overlays/{stem}.png", encode_image(overlay(pixels[name], labels, space)))
        present = (c.name for c in space.classes if (labels == c.id).any())
        yield Predicted(name, tuple(present))


def _ask(predictor: Any, artifact: str, images: list[Uint8Array]) -> list[Any]:
    """The predictor's answers, where it gives label maps of images alone.

    Raises:
        ValueError: an artifact that needs more than images; says which command takes it.
    """
    if not images:
        return []
    try:
        found = list(predictor.predict(images))
    except (AttributeError, TypeError) as error:
        raise ValueError(_other_kind(artifact)) from error
    if not hasattr(found[0], "labels"):
        raise ValueError(_other_kind(artifact))
    return found


def _other_kind(artifact: str) -> str:
    return (
        f"{artifact}: expected an artifact that predicts masks of photos alone, found one that needs more; labelers"
        " take it: maskmill label few-shot, co-saliency, video or a2gnn"
    )


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
