"""What the parts of WeCLIP's labels and of its answer are worth, from one training a world: a tenth of the time that
arms with a training each take (`benchmarks.weclip`).

Arms of labels, told the tags: `labels` (CLIP alone), `labels+contrast` (patches held against texts as well), and
spread by the trained decoder's affinity, as training makes them at its end: `rfm_none` (all candidate maps),
`rfm_signed` (the release's choice), `rfm_absolute` (the paper's), `rfm_absolute+contrast`. Arms of answers: `decoder`,
`decoder+tags` (a head that was trained along moves the logits), `decoder+maps` (and the labels have 0.9 of the say),
`decoder+maps+contrast`. Metrics, all after the dense CRF: `told@...`, the tags being told; `free@...`, of answers,
without them. Worlds as in `benchmarks.weclip`; without --data the drawn one alone.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Options, Record, parse_options
from benchmarks.tag_worlds import Size, World, drawn_world, photo_world
from benchmarks.weclip import CAM_SETTINGS, DECODER_SETTINGS, shards
from maskmill.data_contracts import Uint8Array, foreground_ids
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, SegmentationMetrics, read_artifact
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.decoder import Decoded, affinity_logits
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.predict import NEVER, WeclipPredictor
from maskmill.trainers.weclip.tags import TagHead, Witness
from maskmill.trainers.weclip.train import load
from maskmill.vision.clip import DenseFeatures, build_text_bank
from maskmill.vision.crf_options import CrfOptions
from maskmill.vision.refine import refine_many

SIZES = {
    "small": Size(scenes=360, tested_scenes=40, frames=6, horses=48, tested_photos=40, steps=100),
    "full": Size(scenes=2000, tested_scenes=240, frames=25, horses=120, tested_photos=240, steps=600),
}
CONTRAST = {"contrast": 0.3}
LABELS: dict[str, dict[str, Any]] = {
    "labels": {},
    "labels+contrast": CONTRAST,
    "rfm_none": {"filter": "none"},
    "rfm_signed": {"filter": "signed"},
    "rfm_absolute": {"filter": "absolute"},
    "rfm_absolute+contrast": {"filter": "absolute", **CONTRAST},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "decoder": {"test_tags": 0.0, "test_maps": 0.0},
    "decoder+tags": {"test_tags": 1.0, "test_maps": 0.0},
    "decoder+maps": {"test_tags": 1.0, "test_maps": 0.9},
    "decoder+maps+contrast": {"test_tags": 1.0, "test_maps": 0.9, **CONTRAST},
}


@dataclass(frozen=True)
class Engine:
    """A trained WeCLIP whose parts can be asked one by one."""

    predictor: WeclipPredictor
    labeler: PseudoLabeler
    head: TagHead

    def logits(self, arm: str, dense: DenseFeatures, decoded: Decoded, told: list[int] | None) -> Tensor:
        """Log shares or logits (C, h, w) on the token grid, those that are known not to be there at NEVER."""
        options = LABELS.get(arm) or ANSWERS.get(arm) or {}
        labeler = replace(self.labeler, config=self.labeler.config.model_copy(update=options))
        witness = Witness(labeler, self.head)
        if arm in ANSWERS:
            found = witness(dense, decoded, None if told is None else [told])[0]
        else:
            form = labeler.config.affinity
            spread = affinity_logits(decoded.features, form) if arm.startswith("rfm") else None
            found = witness.shares(dense, decoded, [told or []], spread)[0].clamp_min(1e-6).log()
        if told is None:
            return found
        others = torch.ones(len(found), dtype=torch.bool, device=found.device)
        others[[self.labeler.space.background_id or 0, *told]] = False
        return found.masked_fill(others[:, None, None], NEVER)


def trained(world: World, size: Size, seed: int, folder: Path) -> str:
    """The artifact of the one training, from tags; it has a head that finds them, and plain labels."""
    settings: dict[str, Any] = {
        "seed": seed,
        "steps": size.steps,
        "tag_weight": 1.0,
        "runtime": {"save_every": 20, "progress": False},
        **DECODER_SETTINGS[world.name],
        "test_size": CAM_SETTINGS[world.name]["image_side"],
    }
    data = DataConfig(samples=(shards(world.train, world.space, folder / "train"),))
    config = TrainConfig(trainer="weclip", label_space=world.space, data=data, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def opened(path: str, world: World) -> Engine:
    """The artifact of a training with a head."""
    artifact = read_artifact(path)
    config = Config.model_validate(artifact.info.config)
    predictor = load(artifact, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    model: Any = predictor.model
    bank = build_text_bank(world.space, model.backbone, config.templates, synonyms=config.synonyms)
    return Engine(predictor, PseudoLabeler(model, bank, world.space, config), model.tags)


def mious(world: World, engine: Engine) -> dict[str, dict[str, float]]:
    """`told` and, of answers, `free` by arm."""
    cases = [(arm, "told") for arm in (*LABELS, *ANSWERS)] + [(arm, "free") for arm in ANSWERS]
    metrics = {case: SegmentationMetrics(world.space) for case in cases}
    predictor, model = engine.predictor, engine.labeler.model.eval()
    for pair in world.test:
        ids = sorted(foreground_ids(pair.mask, world.space))
        with torch.no_grad():
            images = predictor._inputs([pair.image], predictor.config, 1.0).to(predictor.device)
            dense = model.encode(images, engine.labeler.n_attention)
            decoded = model.decode(dense, images)
            for arm, kind in cases:
                logits = engine.logits(arm, dense, decoded, ids if kind == "told" else None)
                metrics[arm, kind].update(refined(logits, pair.image, predictor.crf), pair.mask)
    found: dict[str, dict[str, float]] = {}
    for (arm, kind), one in metrics.items():
        found.setdefault(arm, {})[kind] = float(one.compute()["miou"])
    return found


def refined(logits: Tensor, image: Uint8Array, options: CrfOptions) -> Uint8Array:
    """Labels at image size after the CRF, among the classes that have a share anywhere."""
    full = F.interpolate(logits[None], image.shape[:2], mode="bilinear", align_corners=False)[0].softmax(dim=0)
    some = (full.amax(dim=(1, 2)) > 0.02).nonzero()[:, 0].cpu()
    (shares,) = refine_many([(image, full[some].cpu().numpy())], options=options)
    return np.asarray(some.numpy()[shares.argmax(axis=0)], dtype=np.uint8)


def run(options: Options) -> None:
    """All arms of all seeds; worlds that are cut off go on from the training's checkpoint."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    for seed in options.seeds:
        if record.has("labels", seed):
            continue
        worlds = [drawn_world(size, seed)]
        if options.data is not None:
            worlds.append(photo_world(options, size, seed))
        figures: dict[str, dict[str, float]] = {}
        for world in worlds:
            path = trained(world, size, seed, work / f"{seed}" / world.name)
            for arm, found in mious(world, opened(path, world)).items():
                figures.setdefault(arm, {}).update({f"{kind}@{world.name}": value for kind, value in found.items()})
            print(f"seed {seed}: {world.name} {figures}", flush=True)
        for arm, values in figures.items():
            record.add(arm, seed, values)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("weclip_parts", __doc__, needs_data=False))
