"""From image tags to masks: what each stage of CLIP's pseudo-labels adds, and how far WeCLIP's decoder gets with them.

Arms: `cam` (Grad-CAM of the starter CLIP), `cam+affinity`, `cam+affinity+par`, `cam+affinity+crf`: labels of the tested
images from their tags, without training. `weclip`: a decoder trained on tags alone, tested without tags;
`fully_supervised`: the same decoder and schedule, trained on the true masks. `weclip+tags`: beside it a head learns
from CLIP's embedding what the tags are, and moves the logits at test time; `weclip+maps`: CLIP's class maps, of the
tags that the image is told or found to have, spread by the decoder's affinity, answer; both at the labels' input side.
What RFM does: `rfm_none` (labels never refined), `rfm_signed` (the release's choice of maps), `rfm_absolute` (the
paper's), `rfm_centred` (the same with cosines of centred features for the decoder's affinity, which else saturates),
all from half of the steps on, `rfm_from_step_0`, and `rfm_presence_gate` (tags that CLIP does not see in a
crop are left out of its labels).
Metrics: `miou@drawn`, trained on scenes of known styles and tested on a style that training never saw; `miou@photos`,
DAVIS frames (the class is in the sequence's name) and horses, tested on sequences and stems that training never saw, in
classes that both parts have. `miou_tagged@…`, of the decoders: told the tags of the tested images, as `cam` is.
`miou_crf@…` and `miou_tagged_crf@…`, of `weclip+…`: after the dense CRF, as `cam+affinity+crf` is.
`label_miou@…`, of the RFM arms: of the labels that training would make for the tested images after its last step, told
their tags, and after a third of the steps more each (`label_miou@drawn.step_50`, …).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.pictures.weclip import row, write_picture
from benchmarks.shards import sample_row, write_rows
from benchmarks.tag_worlds import SIZES, Pair, Size, World, drawn_world, photo_world
from maskmill.data_contracts import LabelSpace, Uint8Array, encode_image, foreground_ids
from maskmill.labelers import LabelItem
from maskmill.labelers.clip_cam import ClipCam
from maskmill.labelers.clip_cam import Config as CamConfig
from maskmill.labelers.clip_cam import load as load_cam
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, SegmentationMetrics, read_artifact, with_crf
from maskmill.trainers.registry import load_artifact
from maskmill.trainers.weclip.predict import WeclipPredictor

CAM_ARMS: dict[str, dict[str, Any]] = {
    "cam": {"affinity": False, "refine": "none"},
    "cam+affinity": {"affinity": True, "refine": "none"},
    "cam+affinity+par": {"affinity": True, "refine": "par"},
    "cam+affinity+crf": {"affinity": True, "refine": "crf"},
}
DECODER_ARMS = {"weclip": "tags", "fully_supervised": "masks"}
#: Options of the RFM arms. The gate is a share that no tag falls under by chance alone among twenty classes.
RFM_ARMS: dict[str, dict[str, Any]] = {
    "rfm_none": {"rfm_start": 1_000_000},
    "rfm_signed": {"filter": "signed"},
    "rfm_absolute": {"filter": "absolute"},
    "rfm_centred": {"filter": "absolute", "affinity": "centred"},
    "rfm_from_step_0": {"filter": "absolute", "rfm_start": 0},
    "rfm_presence_gate": {"filter": "absolute", "presence_gate": 0.05},
}
#: Options of what joins the decoder's answer with CLIP's own at test time.
JOINED_ARMS: dict[str, dict[str, Any]] = {
    "weclip+tags": {"tag_weight": 1.0, "test_tags": 1.0, "test_crf": True},
    "weclip+maps": {"tag_weight": 1.0, "test_tags": 1.0, "test_maps": 1.0, "test_crf": True},
}
LABELS_LOOKED_AT = 3  # times in a training
TRAINED_ARMS = (*DECODER_ARMS, *JOINED_ARMS, *RFM_ARMS)
#: Options of all `cam` arms, and of both decoders, chosen on known styles and on the training part of the photos.
CAM_SETTINGS: dict[str, dict[str, Any]] = {"drawn": {"image_side": 320}, "photos": {"image_side": 512}}
DECODER_SETTINGS: dict[str, dict[str, Any]] = {
    "drawn": {},
    "photos": {"augment": {"size": 192, "scale": (1.0, 1.5)}, "test_size": 384},
}
SHOWN = 4  # tested images of each world in the picture


def load_labelers(world: World) -> dict[str, ClipCam]:
    """The labeler of each `cam` arm."""
    given = {"min_decided": 0.0, "confidence": 0.0, "find_tags": "never", **CAM_SETTINGS[world.name]}
    return {arm: load_cam(CamConfig(**{**given, **options}), world.space) for arm, options in CAM_ARMS.items()}


def cam_masks(labelers: dict[str, ClipCam], pair: Pair, space: LabelSpace) -> dict[str, Uint8Array]:
    """Labels of an image by `cam` arm, given its tags. The arms share its class maps."""
    item = LabelItem("tested", pair.image, class_ids=tuple(foreground_ids(pair.mask, space)))
    first = labelers["cam+affinity"]
    shown, response = first.respond(first.resize(item.image)[None], [item.class_ids])
    masks = {}
    for arm, labeler in labelers.items():
        maps = response.spread if labeler.config.affinity else response.cams
        found = labeler.refined([item], shown, [maps.cpu().numpy()])[0].mask
        masks[arm] = np.full(pair.mask.shape, space.background_id, np.uint8) if found is None else found
    return masks


def cam_mious(world: World) -> dict[str, float]:
    """mIoU by arm of `clip_cam` labels on the tested images."""
    labelers = load_labelers(world)
    metrics = {arm: SegmentationMetrics(world.space) for arm in CAM_ARMS}
    for pair in world.test:
        for arm, mask in cam_masks(labelers, pair, world.space).items():
            metrics[arm].update(mask, pair.mask)
    return {arm: float(one.compute()["miou"]) for arm, one in metrics.items()}


def decoder_mious(world: World, arm: str, size: Size, seed: int, folder: Path) -> dict[str, float]:
    """`miou` of the trained decoder on the tested images, and `miou_tagged`, where it may choose among an image's tags
    only, as the `cam` arms do; both after the CRF as well where the arm wants that, and `label_miou` and its curve of
    an RFM arm. A run that was cut off goes on from its checkpoint.
    """
    artifact = trained(world, arm, size, seed, folder)
    metrics = read_artifact(artifact).metrics
    found: dict[str, float] = {name: float(metrics[name]) for name in ("miou", "miou_crf") if name in metrics}
    found |= tagged_mious(load_artifact(artifact, "auto"), world, crf=arm in JOINED_ARMS)
    if arm not in RFM_ARMS:
        return found
    seen = {f"label_miou.step_{one['step'] + 1}": float(one["label_miou"]) for one in metrics["history"]}
    return {**found, "label_miou": float(metrics["label_miou"]), **seen}


def trained(world: World, arm: str, size: Size, seed: int, folder: Path) -> str:
    """The artifact of a decoder arm, trained where it is not there yet."""
    rfm, joined = RFM_ARMS.get(arm), JOINED_ARMS.get(arm)
    data = DataConfig(samples=(shards(world.train, world.space, folder / "train"),))
    test = DataConfig(samples=(shards(world.test, world.space, folder / "test"),))
    curve = {} if rfm is None else {"measure_labels": True, "eval_every": -(-size.steps // LABELS_LOOKED_AT)}
    large = {} if joined is None else {"test_size": CAM_SETTINGS[world.name]["image_side"]}
    settings = {
        "supervision": DECODER_ARMS.get(arm, "tags"),
        "seed": seed,
        "steps": size.steps,
        "runtime": {"save_every": 20, "progress": False},
        **DECODER_SETTINGS[world.name],
        **curve,
        **large,
        **(rfm or joined or {}),
    }
    config = TrainConfig(trainer="weclip", label_space=world.space, data=data, val=test, settings=settings)
    return train(config, str(folder / arm / "run"), str(_artifact(folder, arm)))


def tagged_mious(predictor: WeclipPredictor, world: World, *, crf: bool) -> dict[str, float]:
    """mIoU on the tested images where each image's tags are told: `miou_tagged`, and `miou_tagged_crf` with a CRF."""
    names = ("miou_tagged", "miou_tagged_crf") if crf else ("miou_tagged",)
    metrics = {name: SegmentationMetrics(world.space) for name in names}
    for pair in world.test:
        found = predictor.predict_told([pair.image], [foreground_ids(pair.mask, world.space)])
        metrics["miou_tagged"].update(found[0].labels, pair.mask)
        if crf:
            metrics["miou_tagged_crf"].update(with_crf(found, [pair.image], predictor.crf)[0].labels, pair.mask)
    return {name: float(one.compute()["miou"]) for name, one in metrics.items()}


def _artifact(folder: Path, arm: str) -> Path:
    return folder / arm / "artifact"


def picture_rows(world: World, folder: Path) -> list[Uint8Array]:
    """The first tested images under every arm, by the decoders that lie in `folder`."""
    labelers = load_labelers(world)
    decoders = [load_artifact(str(_artifact(folder, arm)), "auto") for arm in DECODER_ARMS]
    rows = []
    for pair in world.test[:SHOWN]:
        masks = [pair.mask, *cam_masks(labelers, pair, world.space).values()]
        masks += [decoder.labels([pair.image])[0] for decoder in decoders]
        rows.append(row(pair.image, masks, world.space))
    return rows


def shards(pairs: Sequence[Pair], space: LabelSpace, folder: Path) -> str:
    """The pairs as one Sample shard."""
    return write_rows((sample_row(encode_image(pair.image), pair.mask, space) for pair in pairs), folder)


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured; the first seed's picture goes beside the JSON."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    for seed in options.seeds:
        worlds = [drawn_world(size, seed), photo_world(options, size, seed)]
        folders = {world.name: work / f"{seed}" / world.name for world in worlds}
        missing = [arm for arm in (*CAM_ARMS, *TRAINED_ARMS) if not record.has(arm, seed)]
        if set(missing) & set(CAM_ARMS):
            labelled = {world.name: cam_mious(world) for world in worlds}
            for arm in CAM_ARMS:
                add(record, arm, seed, {name: {"miou": by_arm[arm]} for name, by_arm in labelled.items()})
        for arm in (arm for arm in TRAINED_ARMS if arm in missing):
            found = {w.name: decoder_mious(w, arm, size, seed, folders[w.name]) for w in worlds}
            add(record, arm, seed, found)
        if seed == options.seeds[0]:
            headings = ["image", "truth", *CAM_ARMS, *DECODER_ARMS]
            rows = [one for world in worlds for one in picture_rows(world, folders[world.name])]
            write_picture(options.json_path.with_suffix(".png"), headings, rows)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


def add(record: Record, arm: str, seed: int, found: dict[str, dict[str, float]]) -> None:
    """Record and print the figures of each world."""
    figures = {_named(name, world): value for world, by_name in found.items() for name, value in by_name.items()}
    record.add(arm, seed, figures)
    print(f"seed {seed}: {arm} {figures}", flush=True)


def _named(name: str, world: str) -> str:
    """`miou` and `drawn` to `miou@drawn`; what follows a point stays behind the world."""
    first, point, rest = name.partition(".")
    return f"{first}@{world}{point}{rest}"


if __name__ == "__main__":
    run(parse_options("weclip", __doc__))
