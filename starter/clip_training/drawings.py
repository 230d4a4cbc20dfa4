"""Drawn scenes for the starter CLIP: a second adaptation of the blocks, after which drawings have names, too.

Scenes come as files of `starter.drawn.store`. Lessons on them, each a loss:
- named: the scene agrees with the classes that it shows, against all other classes, and with these or the words of its
  background against all words;
- agree: a patch of an object agrees with its class, any other patch with a word of the background;
- maps: the class map (Grad-CAM at the last block's output, in closed form) covers the object and nothing else;
- within: attention stays within a class or the background;
- doubt: scrambled, noisy and blurred scenes say nothing.
Photos are kept where they are by the lessons of adapt.py, by patch as well as by photo.

Softening: scenes are shrunk and enlarged again, since a generator's small pictures are softer than renders.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.starter.clip_training.adapt import Adaptation, AdaptSchedule, Lessons, _within, n_patches, raw_patches
from maskmill.starter.clip_training.photos import Spoilt, kept_maps, spoil
from maskmill.starter.clip_training.regions import IGNORE, PURE
from maskmill.starter.clip_training.space import DIMENSIONS
from maskmill.starter.clip_training.tower import first_tokens
from maskmill.vision.clip.towers import STRIDE

BACKGROUND = 0
#: Background words that a picture does not tell apart: a patch may agree with any of its word's group.
GROUPS = (
    ("sky", "cloud"),
    ("lake", "water", "river", "sea", "ocean"),
    ("railway", "railroad"),
    ("road", "street"),
    ("ground", "land", "grass"),
    ("mountain", "valley", "rock"),
    ("building", "house", "wall"),
)
TEMPLATES = ("{}", "a clean origami {}.", "a photo of a {}.")
#: Sides at which scenes of a size are shown: small ones enlarged, as the starter preset of SDS does.
SIDES: Mapping[int, tuple[int, ...]] = {64: (160, 256), 128: (224,), 160: (160,)}
SOFT = 0.4  # share of scenes that are shrunk and enlarged
SPOILERS: tuple[Spoilt, ...] = ("scramble", "noise", "blur")
SPOILT_STEP = 5  # every fifth scene is spoilt, too
#: VOC names that are no words, or not the usual ones.
RENAMED = ("sofa", "motorbike", "pottedplant", "tvmonitor")
MAP_SCALES = (5.0, 23.4)  # of the starter preset of SDS and the model's own


def alike(word: str) -> tuple[str, ...]:
    """The words that are right for a background painted as `word`."""
    return next((group for group in GROUPS if word in group), (word,))


@dataclass(frozen=True)
class Scenes:
    """Scenes of one size on the patch grid.

    `tokens` float16 (n, L, 320); `cover` float16 (n, C + 1, L): share of each patch that the background and each of the
    C classes cover; `backgrounds` int64 (n,): index among the background words.
    """

    tokens: Tensor
    cover: Tensor
    backgrounds: Tensor


def patch_cover(masks: NDArray[np.uint8], n_classes: int, grid: int) -> Tensor:
    """Masks uint8 (n, S, S) to the share of each patch per value 0..n_classes: float16 (n, n_classes + 1, grid**2)."""
    parts = []
    for start in range(0, len(masks), 64):
        part = torch.from_numpy(masks[start : start + 64].astype(np.int64))
        whole = functional.one_hot(part, n_classes + 1).permute(0, 3, 1, 2).float()
        parts.append(functional.adaptive_avg_pool2d(whole, grid).flatten(2))
    return torch.cat(parts).half()


Manner = Callable[[NDArray[np.uint8], random.Random], Iterable[NDArray[np.uint8]]]


def as_drawn(images: NDArray[np.uint8], rng: random.Random) -> Iterable[NDArray[np.uint8]]:
    """Scenes as they are."""
    return images


PLAIN: Mapping[str, Manner] = {"": as_drawn}


def soften(images: Iterable[NDArray[np.uint8]], side: int, share: float, rng: random.Random) -> Iterator[Tensor]:
    """Images uint8 (n, S, S, 3) one by one as (3, side, side) in [0, 1]; a share of them is shrunk to 0.4 S or more."""
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        if rng.random() < share:
            small = int(image.shape[0] * rng.uniform(0.4, 1.0))
            x = functional.interpolate(x, (small, small), mode="bilinear", antialias=True)
        yield functional.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)[0]


@dataclass(frozen=True)
class Words:
    """Texts that compete on scenes: unit embeddings (V, C + B, D), V wordings of C classes and B background words."""

    matrix: Tensor
    n_classes: int
    backgrounds: tuple[str, ...]

    @property
    def right(self) -> Tensor:
        """Which background words are right for each, bool (B, B)."""
        rows = [[word in alike(one) for word in self.backgrounds] for one in self.backgrounds]
        return torch.tensor(rows)


@torch.no_grad()
def embed_words(clip: Any, tokenizer: Any, classes: Sequence[Sequence[str]], backgrounds: Sequence[str]) -> Words:
    """Every template with every name of a class (the last one again where a class has fewer names than others)."""
    most = max(map(len, classes))
    wordings = []
    for template in TEMPLATES:
        for which in range(most):
            names = [names[min(which, len(names) - 1)] for names in classes]
            texts = [template.format(name) for name in (*names, *backgrounds)]
            wordings.append(functional.normalize(clip.encode_text(tokenizer(texts)).float(), dim=-1))
    return Words(torch.stack(wordings), len(classes), tuple(backgrounds))


@torch.no_grad()
def text_rows(clip: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Unit rows (n, 160) of texts without the constant dimension, which is near 0 for them."""
    parts = [clip.encode_text(tokenizer(list(texts[i : i + 100]))).float() for i in range(0, len(texts), 100)]
    return functional.normalize(torch.cat(parts)[:, :DIMENSIONS], dim=-1)


def class_maps(patches: Tensor, texts: Tensor, own: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Grad-CAM of log p at the last block's output, in closed form: (B, C, L), each at most 1; differentiable.

    The image embedding is the unit mean m of the patch embeddings, so the gradient of log p_k at every patch is
    d = scale (t_k - sum_j p_j t_j), less its part along m: one direction for all patches.

    Args:
        patches: (B, L, D) as they are pooled, `bias` (D,) included. texts: (C + B, D) unit. own: bool (B, C): classes
            that compete; background texts always do.
    """
    mean = functional.normalize(patches.mean(1), dim=-1)
    competing = torch.cat([own, own.new_ones(len(own), len(texts) - own.shape[1])], dim=1)
    p = (scale * mean @ texts.T).masked_fill(~competing, float("-inf")).softmax(-1)
    direction = texts[None, : own.shape[1]] - (p @ texts)[:, None]
    direction = direction - (direction * mean[:, None]).sum(-1, keepdim=True) * mean[:, None]
    maps = torch.einsum("bld,bcd->bcl", patches - bias, direction).relu()
    return maps / maps.amax(-1, keepdim=True).clamp_min(1e-6)


def map_loss(maps: Tensor, cover: Tensor, own: Tensor) -> Tensor:
    """One minus the soft IoU (sum of minima over sum of maxima) of maps (B, C, L) and covers, mean over own classes."""
    low, high = torch.minimum(maps, cover).sum(-1), torch.maximum(maps, cover).sum(-1)
    return (1 - low / high.clamp_min(1e-6))[own].mean()


def class_names(space: LabelSpace) -> list[list[str]]:
    """Names by which the classes of a label space are taught, in the order of their ids: text, name, and synonyms where
    the name is not a word that people write."""
    return [
        [one.text, one.name, *(other for other in one.synonyms if " " in other or one.name in RENAMED)]
        for one in space.classes
    ]


Stored = Callable[[str, Iterable[Tensor]], Tensor]


def drawn_lessons(
    clip: Any, tokenizer: Any, folder: Path, stored: Stored, manners: Mapping[str, Manner] = PLAIN
) -> DrawnLessons:
    """Lessons on the scenes of `folder`, files of `starter.drawn.store`.

    Args:
        stored: what is kept of pictures (3, S, S) by a name, from disk where it is there.
        manners: ways to show a scene, by a suffix of its name.

    Raises:
        FileNotFoundError: no scenes there.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"no scenes (*.npz) in {folder}: python -m maskmill.starter.drawn.store --out {folder}")
    space = load_label_space("voc")
    words = embed_words(clip, tokenizer, class_names(space), space.background_prompts)
    scenes, spoilt = {}, {}
    for file in files:
        with np.load(file) as archive:
            images, masks = archive["images"], archive["masks"]
            numbers = torch.tensor([words.backgrounds.index(str(word)) for word in archive["backgrounds"]])
        for side in SIDES.get(images.shape[1], (224,)):
            cover = patch_cover(masks, words.n_classes, side // STRIDE)
            for suffix, manner in manners.items():
                name = f"{file.stem}.{side}{suffix}"
                shown = manner(images, random.Random(f"{name}.manner"))
                scenes[name] = Scenes(stored(name, soften(shown, side, SOFT, random.Random(name))), cover, numbers)
            for how in SPOILERS:
                name = f"{file.stem}.{side}.{how}"
                rng = random.Random(name)
                copies = (spoil(image, how, rng) for image in soften(images[::SPOILT_STEP], side, SOFT, rng))
                spoilt[name] = stored(name, copies)
    return DrawnLessons(scenes, spoilt, words)


def stored_tokens(clip: Any, work: Path) -> Stored:
    """Tokens (n, L, 320) of pictures; trunk maps are kept in `work`."""
    trunk = clip.visual.trunk.patch_embed.backbone.net
    return lambda name, images: first_tokens(clip, trunk, kept_maps(trunk, images, work, name)).clone()


@dataclass(frozen=True)
class DrawnLessons:
    """Scenes by name, spoilt scenes' tokens (n, L, 320) by name, and the words that compete."""

    scenes: Mapping[str, Scenes]
    spoilt: Mapping[str, Tensor]
    words: Words


@dataclass(frozen=True)
class DrawnSchedule(AdaptSchedule):
    """Every step holds a batch of scenes and, in turn, photos without labels or labelled regions."""

    steps: int = 500
    clean: int = 12
    spoilt: int = 6
    labelled: int = 4
    labelled_spoilt: int = 2
    learning_rate: float = 1e-3
    scale_learning_rate: float = 2e-3
    drawn_tokens: int = 3200  # of the scenes of a step: 12 scenes of 256 tokens, 32 of 100
    keep_patches: float = 4.0
    drawn: float = 1.0


class DrawnAdaptation(Adaptation):
    """Goes on from an adapted model: `start` is what the model says before the first step.

    Blocks run in bfloat16, losses in float32.
    """

    half = True

    def __init__(
        self,
        clip: Any,
        rows: Tensor,
        words: Mapping[str, Tensor],
        lessons: Lessons,
        drawn: DrawnLessons,
        *,
        scale: float,
        seed: int,
    ) -> None:
        self.start_patches: dict[str, Tensor] = {}
        super().__init__(clip, rows, words, lessons, scale, seed)
        self.drawn = drawn
        self.right = drawn.words.right

    @torch.no_grad()
    def _start(self, name: str, tokens: Tensor) -> Tensor:
        parts = [tokens[i : i + 64] for i in range(0, len(tokens), 64)]
        raw = [raw_patches(self.clip, part, half=self.half)[0] for part in parts]
        self.start_patches[name] = torch.cat([functional.normalize(part, dim=-1).half() for part in raw])
        return torch.cat([functional.normalize(part.mean(1), dim=-1) for part in raw])

    def _wake(self) -> None:
        """They matter already."""

    def _lesson(self, step: int, schedule: AdaptSchedule) -> tuple[Tensor, dict[str, float]]:
        if not isinstance(schedule, DrawnSchedule):
            raise TypeError(f"expected a DrawnSchedule, found {type(schedule).__name__}")
        kept, parts = super()._lesson(step, schedule)
        drawn, more = self._drawn(schedule)
        return kept + schedule.drawn * drawn, {**parts, **more}

    def _keep(self, name: str, index: Tensor, patches: Tensor, schedule: AdaptSchedule) -> Tensor:
        if not isinstance(schedule, DrawnSchedule):
            raise TypeError(f"expected a DrawnSchedule, found {type(schedule).__name__}")
        before = self.start_patches[name][index].float()
        moved: Tensor = 1 - (patches * before).sum(-1)
        return schedule.keep_patches * moved.mean()

    def _drawn(self, schedule: DrawnSchedule) -> tuple[Tensor, dict[str, float]]:
        scenes = self.drawn.scenes[self.rng.choice(list(self.drawn.scenes))]
        length = n_patches(scenes.tokens)
        count = schedule.drawn_tokens // length
        index = torch.randint(0, len(scenes.tokens), (count,))
        alike_sized = {name: t for name, t in self.drawn.spoilt.items() if n_patches(t) == length}
        spoilt = self._spoilt(alike_sized, count // 4) if alike_sized else scenes.tokens[:0]
        tokens = torch.cat([scenes.tokens[index], spoilt])
        raw, attention = raw_patches(self.clip, tokens, attention=True, half=self.half)
        patches, cover = raw[:count], scenes.cover[index].float()
        texts = self.drawn.words.matrix[self.rng.randrange(len(self.drawn.words.matrix))]
        right = self.right[scenes.backgrounds[index]]
        losses = {
            "named": named_loss(patches, texts, cover, right, self.scale),
            "agreed": agree_loss(patches, texts, cover, right, self.scale),
            "maps": self._maps(patches, texts, cover),
            "inside": torch.stack([_within(a[:count], patch_labels_of(cover)) for a in attention]).mean(),
        }
        weights = {"named": 1.0, "agreed": 0.5, "maps": 1.0, "inside": 0.3}
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        if len(spoilt):
            losses["doubt_drawn"] = self._doubt(functional.normalize(raw[count:].mean(1), dim=-1))
            loss = loss + 0.5 * losses["doubt_drawn"]
        return loss, {name: value.item() for name, value in losses.items()}

    def _maps(self, patches: Tensor, texts: Tensor, cover: Tensor) -> Tensor:
        own = cover[:, 1:].sum(-1) > 0.5
        maps = class_maps(patches, texts, own, self.rng.choice(MAP_SCALES), self.clip.visual.head.proj.bias)
        return map_loss(maps, cover[:, 1:], own)


def patch_labels_of(cover: Tensor) -> Tensor:
    """Covers (B, C + 1, L) to the value that holds most of a patch, IGNORE where none does: int64 (B, L)."""
    share, label = cover.max(1)
    return torch.where(share > PURE, label, torch.full_like(label, IGNORE))


def named_loss(patches: Tensor, texts: Tensor, cover: Tensor, right: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the scenes' classes among all classes, plus minus the log mass, among all words, of classes and
    right background words.
    """
    n_classes = cover.shape[1] - 1
    present = (cover[:, 1:].sum(-1) > 0.5).float()
    logits = scale * functional.normalize(patches.mean(1), dim=-1) @ texts.T
    wanted = present / present.sum(1, keepdim=True).clamp_min(1)
    among = -(wanted * logits[:, :n_classes].log_softmax(-1)).sum(1).mean()
    allowed = torch.cat([present.bool(), right], dim=1)
    mass = logits.log_softmax(-1).masked_fill(~allowed, float("-inf")).logsumexp(-1)
    return among - mass.mean()


def agree_loss(patches: Tensor, texts: Tensor, cover: Tensor, right: Tensor, scale: float) -> Tensor:
    """Minus the log probability of a patch's own words; objects and background count alike."""
    n_classes, labels = cover.shape[1] - 1, patch_labels_of(cover)
    log_p = (scale * functional.normalize(patches, dim=-1) @ texts.T).log_softmax(-1)
    beyond = log_p[..., n_classes:].masked_fill(~right[:, None], float("-inf")).logsumexp(-1)
    own = log_p[..., :n_classes].gather(-1, (labels - 1).clamp_min(0)[..., None])[..., 0]
    terms = [-own[labels > BACKGROUND].clamp_min(-9), -beyond[labels == BACKGROUND].clamp_min(-9)]
    return torch.stack([term.mean() for term in terms if len(term)]).sum()
