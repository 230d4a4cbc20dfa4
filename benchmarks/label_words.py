"""What CLIP is asked with: labels of `clip_cam` from tags, by the words and by what is held against them.

Arms: `plain` (one sentence a class, Grad-CAM of the pooled image), `contrast_0.3`, `contrast_0.6`, `contrast_1` (that
share of the class maps is each patch's own answer, see option `contrast`), `synonyms` (a class's text is the mean over
its synonyms), `sentences` (over four sentences), `synonyms+contrast_0.6`. All spread along the attention and refined by
PAR. Metrics: `miou@drawn`, `miou@photos`, of tested images of `benchmarks.weclip`'s worlds, which are told their tags;
with --dev of a known style and of the photos' part for learning. Nothing is trained.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.tag_worlds import SIZES, Size, World, drawn_world, photo_world
from benchmarks.weclip import CAM_SETTINGS
from maskmill.data_contracts import foreground_ids
from maskmill.labelers import LabelItem
from maskmill.labelers.clip_cam import ClipCam, Config, load
from maskmill.trainers.engine import SegmentationMetrics
from maskmill.vision.clip import clip_response

SENTENCES = ("a clean origami {}.", "a photo of a {}.", "a drawing of a {}.", "a close-up of the {}.")
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "contrast_0.3": {"contrast": 0.3},
    "contrast_0.6": {"contrast": 0.6},
    "contrast_1": {"contrast": 1.0},
    "synonyms": {"synonyms": True},
    "sentences": {"templates": SENTENCES},
    "synonyms+contrast_0.6": {"synonyms": True, "contrast": 0.6},
}


def opened(world: World) -> dict[str, ClipCam]:
    """The labeler of each arm; all share one model."""
    given = {"min_decided": 0.0, "find_tags": "never", **CAM_SETTINGS[world.name]}
    return {arm: load(Config.model_validate({**given, **options}), world.space) for arm, options in ARMS.items()}


def mious(world: World) -> dict[str, float]:
    """mIoU of the labels by arm. An image goes through the frozen blocks once for all arms."""
    labelers = opened(world)
    metrics = {arm: SegmentationMetrics(world.space) for arm in ARMS}
    first = labelers["plain"]
    backbone = first.backbone
    for pair in world.test:
        item = LabelItem("tested", pair.image, class_ids=tuple(foreground_ids(pair.mask, world.space)))
        pixels = first.resize(item.image)[None].to(backbone.device)
        dense = backbone.encode(backbone.normalise(pixels), first.config.n_attention)
        for arm, labeler in labelers.items():
            response = clip_response(
                backbone,
                dense,
                labeler.bank,
                [item.class_ids],
                scale=labeler.scale,
                box_threshold=labeler.config.box_threshold or world.space.cam_box_threshold,
                edge_fix=labeler.config.edge_fix,
                layer=labeler.config.cam_layer,
                contrast=labeler.config.contrast,
            )
            found = labeler.refined([item], [item.class_ids], [response.spread.cpu().numpy()])[0].mask
            blank = np.full(pair.mask.shape, world.space.background_id or 0, np.uint8)
            metrics[arm].update(blank if found is None else found, pair.mask)
    return {arm: float(one.compute()["miou"]) for arm, one in metrics.items()}


def worlds(options: Options, size: Size, seed: int) -> list[World]:
    """The drawn one, and the photos where their folder is given."""
    found = [drawn_world(replace(size, scenes=0), seed, dev=options.dev)]
    return found if options.data is None else [*found, photo_world(options, size, seed)]


def run(options: Options) -> None:
    """All seeds, each added as soon as both worlds are measured."""
    record, size = Record.open(options), SIZES[options.budget]
    for seed in options.seeds:
        if record.has("plain", seed):
            continue
        figures: dict[str, dict[str, float]] = {arm: {} for arm in ARMS}
        for world in worlds(options, size, seed):
            for arm, value in mious(world).items():
                figures[arm][f"miou@{world.name}"] = value
            print(f"seed {seed}: {world.name} {figures}", flush=True)
        for arm, values in figures.items():
            record.add(arm, seed, values)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run(parse_options("label_words", __doc__, needs_data=False, has_dev=True))
