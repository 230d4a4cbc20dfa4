"""What the agent sees: pooled features of two blackened frames, as published, or a few numbers that cost nothing.

The published code fed one crop twice, so neither mask nor template reached the agent; tests hold both encoders to it
that they do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, log
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from maskmill.data_contracts import Uint8Array, content_id
from maskmill.trainers.ftmu.matching import Match, Template
from maskmill.vision.segmenters import encoder_normalisation, weights_stamp
from maskmill.vision.video import Boxes, box_iou, mask_iou

Float32 = NDArray[np.float32]
PATCH = 224
OF_A_MATCH = (
    "found", "overlap", "box_overlap", "mask_overlap", "margin", "rivals", "score", "growth", "growth_since_first",
    "likeness", "likeness_to_first", "moved", "filling", "at_border",
)  # fmt: skip
NUMBERS = (
    *OF_A_MATCH, *(f"other_{name}" for name in OF_A_MATCH), "agreement", "template_score", "filling_of_template", "age",
    "kept", "missed", "lost", "similarity",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Moment:
    """All that is known of one target when the agent is asked."""

    frame: int
    image: Uint8Array  # RGB (H, W, 3)
    template: Template
    first: Template
    last: Boxes
    match: Match | None  # by overlap, or by appearance when lost
    other: Match | None  # by likeness, where the agent may choose
    kept: float  # in patiences
    missed: float
    lost: bool


class StateEncoder(Protocol):
    """Moments to states float32 (k, width)."""

    width: int

    def encode(self, moments: Sequence[Moment]) -> Float32: ...


class SharedState:
    """Numbers that matching has computed anyway; see `NUMBERS`."""

    width = len(NUMBERS)

    def encode(self, moments: Sequence[Moment]) -> Float32:
        """float32 (k, width), each number within a few units of 0."""
        return np.array([self._numbers(moment) for moment in moments], np.float32).reshape(-1, self.width)

    def _numbers(self, moment: Moment) -> list[float]:
        template, match, other = moment.template, moment.match, moment.other
        first = _of_a_match(moment, match)
        second = first if other is match else _of_a_match(moment, other)
        agreement = 0.0 if match is None or other is None else mask_iou(match.mask, other.mask)
        return [
            *first,
            *second,
            agreement,
            template.score,
            _area(template) / max(float((template.box[2:] - template.box[:2]).prod()), 1.0),
            min(moment.frame - template.frame, 20) / 10,
            min(moment.kept, 4.0),
            min(moment.missed, 4.0),
            float(moment.lost),
            0.0 if match is None or match.similarity is None else match.similarity,
        ]


def _of_a_match(moment: Moment, match: Match | None) -> list[float]:
    """The numbers `OF_A_MATCH`; all 0 where there is none."""
    if match is None:
        return [0.0] * len(OF_A_MATCH)
    template, (height, width) = moment.template, moment.image.shape[:2]
    x0, y0, x1, y1 = (float(v) for v in match.box)
    area, box = max(match.mask.area, 1), max((x1 - x0) * (y1 - y0), 1.0)
    u0, v0, u1, v1 = (float(v) for v in moment.last)
    away = hypot(x0 + x1 - u0 - u1, y0 + y1 - v0 - v1) / 2
    return [
        1.0,
        match.overlap,
        float(box_iou(template.box, match.box[None])[0]),
        0.0 if template.mask is None else mask_iou(template.mask, match.mask),
        match.margin,
        min(match.rivals, 6) / 3,
        match.score,
        _clip(log(area / _area(template))),
        _clip(log(area / _area(moment.first))),
        4 * _likeness(template, match) - 3,
        4 * _likeness(moment.first, match) - 3,
        min(away / box**0.5, 2.0),
        area / box,
        float(x0 <= 1 or y0 <= 1 or x1 >= width - 1 or y1 >= height - 1),
    ]


def _clip(value: float) -> float:
    return min(max(value, -2.0), 2.0)


def _area(template: Template) -> float:
    if template.mask is not None:
        return float(max(template.mask.area, 1))
    return max(float((template.box[2:] - template.box[:2]).prod()), 1.0)


def _likeness(template: Template, match: Match) -> float:
    if template.descriptor is None or not len(match.descriptor):
        return 0.5
    return float(template.descriptor @ match.descriptor)


class PatchState:
    """Pooled features of the template's frame outside its box blackened, and of this frame outside the mask blackened.

    Each is resized to 224 x 224 (bilinear with antialiasing, as released), normalised after the blackening and sent
    through a frozen trunk; the two vectors are put one after the other: 2 x 2048 numbers for a ResNet-50. A template is
    asked for until it is replaced, so its vector is kept.
    """

    def __init__(self, trunk: nn.Module, mean: Sequence[float], std: Sequence[float], width: int) -> None:
        self.trunk, self.width = trunk.eval().requires_grad_(False), 2 * width
        weights = next(trunk.parameters(), None)
        self._device = torch.device("cpu") if weights is None else weights.device
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)
        self._templates: WeakKeyDictionary[Template, Float32] = WeakKeyDictionary()

    def encode(self, moments: Sequence[Moment]) -> Float32:
        """float32 (k, 2 C): template first, prediction second. One image a forward."""
        rows = [np.concatenate([self._template(m.template), self._prediction(m)]) for m in moments]
        return np.array(rows, np.float32).reshape(-1, self.width)

    def _template(self, template: Template) -> Float32:
        if template not in self._templates:
            self._templates[template] = self._features(template.image, template_area(template))
        return self._templates[template]

    def _prediction(self, moment: Moment) -> Float32:
        size = (moment.image.shape[0], moment.image.shape[1])
        shown = np.zeros(size, np.bool_) if moment.match is None else moment.match.mask.paste(size)
        return self._features(moment.image, shown)

    def _features(self, image: Uint8Array, shown: NDArray[np.bool_]) -> Float32:
        patch = state_patch(image, shown).astype(np.float32) / 255
        pixels = ((patch - self._mean) / self._std).transpose(2, 0, 1)[None]
        with torch.inference_mode():
            found = self.trunk(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
            features: Float32 = found[0].float().cpu().numpy()
        return features


def template_area(template: Template) -> NDArray[np.bool_]:
    """The template's box in its frame, bool (H, W)."""
    x0, y0, x1, y1 = (int(v) for v in np.rint(template.box))
    shown = np.zeros(template.image.shape[:2], np.bool_)
    shown[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return shown


def state_patch(image: Uint8Array, shown: NDArray[np.bool_]) -> Uint8Array:
    """The frame outside of `shown` (H, W) blackened, at 224 x 224: uint8 (224, 224, 3)."""
    black = Image.fromarray(image * shown[..., None].astype(np.uint8))
    return np.asarray(black.resize((PATCH, PATCH), Image.Resampling.BILINEAR), np.uint8)


def build_encoder(state: str, trunk: str, weights: str, device: str = "cpu") -> StateEncoder:
    """`shared`, or `patches` over a timm model that lies on the device."""
    return SharedState() if state == "shared" else _patch_state(trunk, weights, device)


def _patch_state(name: str, weights: str, device: str) -> PatchState:
    import timm

    from maskmill.vision.segmenters import has_packaged_weights, packaged_state
    from maskmill.vision.weights import read_state

    if not timm.is_model(name):
        raise ValueError(f"trunk {name!r}: expected a name of timm.list_models()")
    trunk: Any = timm.create_model(name, pretrained=weights == "hub", num_classes=0)
    if weights == "auto" and has_packaged_weights(name):
        known = trunk.state_dict()
        trunk.load_state_dict({k: v for k, v in packaged_state().items() if k in known}, strict=False)
    elif weights not in ("hub", "auto", "random"):
        _load_all(trunk, read_state(weights), f"trunk_weights {weights}, {name}")
    mean, std = encoder_normalisation(name)
    return PatchState(trunk.to(device), mean, std, int(trunk.num_features))


def _load_all(trunk: Any, weights: dict[str, Any], where: str) -> None:
    """Load weights that must hold every tensor of the trunk; a classifier's head besides is left out.

    Raises:
        ValueError: tensors are missing or of other shapes; counts them and names some.
    """
    known = trunk.state_dict()
    fitting = {key: value for key, value in weights.items() if key in known and value.shape == known[key].shape}
    if missing := sorted(set(known) - set(fitting)):
        raise ValueError(
            f"{where}: expected {len(known)} tensors of this model, found {len(fitting)} that fit among "
            f"{len(weights)} ({missing[0]} is missing; the file has {', '.join(sorted(weights)[:3])} …); name the "
            "model that the weights are of"
        )
    trunk.load_state_dict(fitting)


def state_stamp(state: str, trunk: str, weights: str) -> str:
    """What a state depends on beside pixels."""
    return content_id("shared", *NUMBERS) if state == "shared" else weights_stamp(trunk, weights)
