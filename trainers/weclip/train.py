"""WeCLIP, top to bottom: settings, frozen CLIP and decoder, labels made on the fly, losses, loop, artefact."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, sample_seed
from maskmill.trainers.engine import (
    Artifact,
    Example,
    Item,
    Job,
    Loop,
    PredictConfig,
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
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.decoder import affinity_logits
from maskmill.trainers.weclip.losses import affinity_loss, segmentation_loss
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.predict import WeclipPredictor
from maskmill.trainers.weclip.refine import PLAIN_MAPS, plain_attention, pseudo_labels, refined_attention
from maskmill.trainers.weclip.views import ViewStore
from maskmill.vision.clip import (
    DenseFeatures,
    TextBank,
    attention_affinity,
    build_text_bank,
    clip_fingerprint,
    clip_response,
)
from maskmill.vision.segmenters import weights_stamp

VERSION = 3


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


@dataclass(frozen=True)
class PseudoLabeler:
    """Pseudo-labels of a batch of crops from the frozen CLIP and, after the kick-in, from the decoder's affinity."""

    model: Weclip
    bank: TextBank
    space: LabelSpace
    config: Config

    @property
    def n_attention(self) -> int:
        return max(PLAIN_MAPS, self.config.candidates)

    def __call__(
        self, dense: DenseFeatures, rgb: Tensor, tags: Sequence[Sequence[int]], affinity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Labels int64 (B, H, W) for crops `rgb` (B, 3, H, W), and the maps that RFM kept, bool (B, m).

        `affinity`: logits (B, n, n) of A_f; None = before the kick-in.
        """
        config = self.config
        kept = None
        if affinity is None:
            attention = plain_attention(dense.block_attention)
        else:
            attention, kept = refined_attention(dense.block_attention, affinity, config.candidates, config.filter)
        response = clip_response(
            self.model.backbone,
            dense,
            self.bank,
            self._present(dense, tags),
            scale=self._scale,
            box_threshold=config.box_threshold or self.space.cam_box_threshold,
            edge_fix=config.edge_fix,
            affinity=attention_affinity(attention),
            layer=config.cam_layer,
        )
        labels = pseudo_labels(
            response.spread,
            response.pair_image,
            response.pair_class,
            rgb.float(),
            self.space.background_id or 0,
            iterations=config.par_iterations,
            dilations=config.par_dilations,
            stride=config.par_stride,
            ignore_below=config.ignore_below,
            background_power=config.background_power,
        )
        return labels, kept

    @property
    def _scale(self) -> float:
        temperature = self.config.temperature
        return self.model.backbone.logit_scale if temperature is None else 1 / temperature

    def _present(self, dense: DenseFeatures, tags: Sequence[Sequence[int]]) -> list[list[int]]:
        """The tags that pass the gate: a crop need not show all that its image shows."""
        if self.config.presence_gate is None:
            return [list(ids) for ids in tags]
        with torch.no_grad():
            scores = self.model.backbone.tail(dense.last_input)
            p = self.bank.log_probabilities(scores, self.bank.allowed(tags), self._scale).exp()
        rows = [self.bank.rows(ids) for ids in tags]
        gate = self.config.presence_gate
        return [
            [class_id for class_id, row in zip(ids, own, strict=True) if float(p[image, row]) >= gate]
            for image, (ids, own) in enumerate(zip(tags, rows, strict=True))
        ]


def train(config: Config, job: Job) -> str:
    """Train the decoder from image tags (or from masks); returns the artefact's folder."""
    space = job.space
    check(config, space)
    background = space.background_id or 0
    torch.manual_seed(config.seed)
    model = Weclip(config, max(space.size, 2), pick_device(config.runtime.device))
    decoder = model.decoder
    optimizer = make_optimizer(config, param_groups(decoder))

    supervised = config.supervision == "masks"
    data = job.data.with_masks() if supervised else tagged(job.data)
    source = SampleSource(data, CropView(config, with_mask=supervised), config.batch, config.seed)
    loop = Loop(config, job, source, modules={"decoder": decoder}, optimizers={"main": optimizer})

    mean, std = model.normalisation.mean, model.normalisation.std
    predict = PredictConfig(
        fit="long", size=config.test_size, scales=config.test_scales, flip=config.test_flip, multiple=1
    )
    predictor = WeclipPredictor(model, space, mean, std, predict, loop.device)
    score = None if job.val is None else functools.partial(measure, predictor, job.val, config)
    bank = build_text_bank(space, model.backbone, config.templates, synonyms=config.synonyms)
    labeler = PseudoLabeler(model, bank, space, config)
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
        affinity = affinity_logits(decoded.features)
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
        loop.update(loss)
        notes["foreground"] = _foreground(labels, background)
        loop.log(loss=loss, segmentation=segmentation, affinity=alike, **notes)
        loop.evaluate(score)

    return save_artifact(
        job,
        config,
        modules={"decoder": decoder},
        model={"classes": max(space.size, 2), "clip": clip_fingerprint(config.model, config.pretrained)},
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
        predict=predict,
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


def load(artifact: Artifact, device: torch.device) -> WeclipPredictor:
    """The trained segmenter, ready to predict.

    Raises:
        ValueError: the CLIP that the artefact names is not the one that it was trained on.
    """
    info = artifact.info
    config = Config.model_validate(info.config)
    if (found := clip_fingerprint(config.model, config.pretrained)) != info.model["clip"]:
        raise ValueError(
            f"{artifact.path}: trained on CLIP {config.model} with fingerprint {info.model['clip']}, found {found}; "
            "put the same weights in its place, or train again"
        )
    model = Weclip(config, info.model["classes"], device)
    artifact.load(decoder=model.decoder)
    return WeclipPredictor(model, info.label_space, info.mean, info.std, info.predict, device)
