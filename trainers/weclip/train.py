"""WeCLIP, top to bottom: settings, frozen CLIP and decoder, labels made on the fly, losses, loop, artifact."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, sample_seed
from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    Example,
    Item,
    Job,
    Loop,
    Samples,
    SampleSource,
    draw_geometry,
    evaluate,
    jitter_colours,
    make_optimizer,
    param_groups,
    pick_device,
    save_artifact,
)
from maskmill.trainers.engine.health import LOOKED_AT, one_answer
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.decoder import affinity_logits
from maskmill.trainers.weclip.label_curve import label_miou
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.losses import affinity_loss, segmentation_loss
from maskmill.trainers.weclip.model import Weclip, artifact_of, predict_config
from maskmill.trainers.weclip.predict import WeclipPredictor
from maskmill.trainers.weclip.tags import call_witness, tag_loss
from maskmill.trainers.weclip.views import ViewStore
from maskmill.vision.clip import build_text_bank, clip_fingerprint
from maskmill.vision.crf_options import crf_backend
from maskmill.vision.segmenters import weights_stamp

VERSION = 4


def stamps(config: Config) -> tuple[str, ...]:
    """The frozen weights."""
    clip = clip_fingerprint(config.model, config.pretrained)
    return (clip,) if config.second is None else (clip, weights_stamp(config.second, config.second_weights))


class CropView:
    """Keys: `rgb` uint8 (3, S, S), black where the crop leaves the image; `valid` bool (S, S), false there; `tags`, a
    list of class ids; `mask` int64 (S, S), the true one where `with_mask`, else all 255; `view`, the number of the crop
    among the image's `views`, 0 where these are not fixed.
    """

    def __init__(self, config: Config, *, with_mask: bool) -> None:
        self.augment, self.with_mask = config.augment, with_mask
        self.views, self.seed = config.views, config.seed

    def __call__(self, example: Example, rng: np.random.Generator) -> Item:
        view = 0 if self.views is None else int(rng.integers(self.views))
        if self.views is not None:
            rng = np.random.default_rng(sample_seed(self.seed, example.info.sample_id, f"view {view}"))
        height, width = example.image.shape[:2]
        geometry = draw_geometry(rng, height, width, self.augment)
        rgb = jitter_colours(rng, geometry.image(example.image, fill=(0, 0, 0)), self.augment)
        blank = np.full((height, width), IGNORE, np.uint8)
        mask = example.mask if self.with_mask and example.mask is not None else blank
        valid = geometry.label(np.ones((height, width), np.uint8), fill=0)
        return {
            "rgb": torch.from_numpy(rgb).permute(2, 0, 1).contiguous(),
            "valid": torch.from_numpy(valid).bool(),
            "mask": torch.from_numpy(geometry.label(mask)).long(),
            "tags": list(example.info.class_ids),
            "view": view,
            "sample_id": example.info.sample_id,
        }


def train(config: Config, job: Job) -> str:
    """Train the decoder from image tags (or from masks); returns the artifact's folder."""
    space = job.space
    check(config, space)
    if config.test_crf:
        crf_backend(config.crf.backend)  # one that is not installed is said now, not after the last step
    background = space.background_id or 0
    torch.manual_seed(config.seed)
    model = Weclip(config, max(space.size, 2), pick_device(config.runtime.device))
    decoder = model.decoder
    bank = build_text_bank(space, model.backbone, config.templates, synonyms=config.synonyms)
    labeler = PseudoLabeler(model, bank, space, config)
    call_witness(model, labeler)
    trained = model.modules_by_name
    optimizer = make_optimizer(config, [group for module in trained.values() for group in param_groups(module)])

    supervised = config.supervision == "masks"
    data = job.data.with_masks() if supervised else tagged(job.data)
    source = SampleSource(data, CropView(config, with_mask=supervised), config.batch, config.seed)
    loop = Loop(config, job, source, modules=trained, optimizers={"main": optimizer})

    mean, std = model.normalisation.mean, model.normalisation.std
    recipe: dict[str, Any] = {"config": predict_config(config), "resize": config.test_resize, "crf": config.crf}
    predictor = WeclipPredictor(model, space, mean, std, device=loop.device, **recipe)

    def score() -> dict[str, Any]:
        assert job.val is not None
        found = measure(predictor, job.val, config)
        if config.measure_labels and not supervised:
            refining = loop.step >= config.kick_in
            found["label_miou"] = label_miou(model, labeler, job.val, refining=refining)
        return found

    n_attention = 0 if supervised else labeler.n_attention
    store = None if config.views is None else ViewStore(model, n_attention)

    decoder.train()
    for step, batch in loop:
        images = model.normalisation(batch["rgb"])
        if store is None:
            dense = model.encode(images, n_attention)
        else:
            dense = store(images, batch["sample_id"], batch["view"].tolist())
        with loop.autocast():
            decoded = model.decode(dense, images)
        affinity = affinity_logits(decoded.features, config.affinity)
        notes: dict[str, Tensor] = {}
        if supervised:
            labels = batch["mask"]
        else:
            refining = step >= config.kick_in
            labels, kept = labeler(dense, batch["rgb"], batch["tags"], affinity.detach() if refining else None)
            if kept is not None:
                notes["maps_kept"] = kept.float().sum(dim=1).mean()
        if config.ignore_padding:
            labels = labels.masked_fill(~batch["valid"], IGNORE)
        segmentation = segmentation_loss(decoded.logits, labels, background, config.loss_stride)
        alike = affinity_loss(affinity, labels, dense.grid, config.affinity_loss)
        loss = segmentation + config.affinity_weight * alike
        if model.tags is not None:
            with torch.no_grad():
                seen = model.backbone.tail(dense.last_input)
            notes["tags"] = tag_loss(model.tags(seen), [bank.rows(ids) for ids in batch["tags"]])
            loss = loss + config.tag_weight * notes["tags"]
        loop.update(loss)
        notes["foreground"] = _foreground(labels, background)
        loop.log(loss=loss, segmentation=segmentation, affinity=alike, **notes)
        loop.evaluate(None if job.val is None else score)

    return save_artifact(
        job,
        config,
        metrics=loop.metrics,
        curves=loop.curves(),
        **artifact_of(model, config, space),
    )


def check(config: Config, space: LabelSpace) -> None:
    """Raise ValueError where the label space has no background, which the labels of WeCLIP need."""
    if space.background_id is None:
        raise ValueError(
            f"label space {space.name}: weclip needs a background id, found none. Fix: set background_id, "
            "or train `supervised` on masks"
        )


def tagged(samples: Samples) -> Samples:
    """The samples by tags alone: their masks are never opened.

    Raises:
        ValueError: no sample has a tag.
    """
    if not any(info.class_ids for info in samples.infos):
        raise ValueError(
            f"{samples.config.samples}: expected image tags, found none on {len(samples)} samples; name WEAK_LABEL "
            "shards in `weak`"
        )
    return replace(samples, infos=tuple(replace(info, has_mask=False) for info in samples.infos))


def _foreground(labels: Tensor, background: int) -> Tensor:
    return ((labels != background) & (labels != IGNORE)).float().mean()


def measure(predictor: WeclipPredictor, val: Samples, config: Config) -> dict[str, Any]:
    """Metrics without CRF, and with it under the same names + `_crf` where the config wants that."""
    metrics = evaluate(predictor.labels, val, predictor.space)
    if not config.test_crf:
        return metrics

    def refined(images: Sequence[Uint8Array]) -> list[Uint8Array]:
        return [prediction.labels for prediction in predictor.predict_crf(images)]

    crf = evaluate(refined, val, predictor.space)
    return {**metrics, **{f"{name}_crf": crf[name] for name in ("miou", "dice", "pixel_accuracy")}}


def look(predictor: WeclipPredictor, samples: Samples, info: ArtifactInfo) -> list[str]:
    """What is wrong with a finished network, tried on a few of its own training samples. Nothing is said of one that
    was trained by tags: the masks of its samples are not opened.
    """
    if Config.model_validate(info.config).supervision == "tags":
        return []
    known = samples.with_masks()
    examples = [known.example(position) for position in range(min(LOOKED_AT, len(known)))]
    predicted = [one.labels for one in predictor.predict([example.image for example in examples])]
    found = one_answer(predicted, [e.mask for e in examples if e.mask is not None], info.label_space)
    return [found] if found else []


def load(artifact: Artifact, device: torch.device) -> WeclipPredictor:
    """The trained segmenter, ready to predict.

    Raises:
        ValueError: the CLIP that the artifact names is not the one that it was trained on.
    """
    info = artifact.info
    config = Config.model_validate(info.config)
    if (found := clip_fingerprint(config.model, config.pretrained)) != info.model["clip"]:
        raise ValueError(
            f"{artifact.path}: trained on CLIP {config.model} with fingerprint {info.model['clip']}, found {found}; "
            "put the same weights in its place, or train again"
        )
    model = Weclip(config, info.model["classes"], device)
    if config.tag_weight > 0 or config.test_tags > 0 or config.test_maps > 0:
        bank = build_text_bank(info.label_space, model.backbone, config.templates, synonyms=config.synonyms)
        call_witness(model, PseudoLabeler(model, bank, info.label_space, config))
    artifact.load(**model.modules_by_name)
    own: dict[str, Any] = {"resize": config.test_resize, "crf": config.crf}
    return WeclipPredictor(model, info.label_space, info.mean, info.std, info.predict, device, **own)
