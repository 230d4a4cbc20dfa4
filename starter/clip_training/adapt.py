"""Training of the tower's blocks on stored tokens; the trunk and the projections stay as they are.

Three lessons, each a loss:
- keep: photos stay where the start put them, and are named as before (no labels);
- doubt: scrambled, noisy and blurred photos say nothing, that is, their softmax over all words is flat;
- agree: patches of labelled regions agree with the region's words, and attention stays within a region.

The last block keeps its value path, its LayerScales and its MLP: class maps are taken at its norm, and the gradient
there should stay the class's text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from maskmill.starter.clip_training.regions import IGNORE, NOT_PERSON, REGIONS
from maskmill.starter.clip_training.space import DIMENSIONS
from maskmill.vision.clip.towers import MIDDLE_STAGE, WIDTH, position_channels

#: What competes for a patch besides the words of the regions.
# fmt: off
OTHER_WORDS = (
    "dog", "cat", "horse", "bird", "chair", "bus", "boat", "train", "cow", "sofa", "bottle", "airplane",
    "motorbike", "sheep", "potted plant", "dining table", "tv monitor", "land", "lake", "water", "river", "sea",
    "railway", "railroad", "keyboard", "helmet", "mountain", "ocean", "rock", "valley", "bridge",
)
# fmt: on


@dataclass(frozen=True)
class AdaptSchedule:
    """Steps alternate between photos without labels and labelled regions."""

    steps: int = 300
    clean: int = 14
    spoilt: int = 9
    labelled: int = 6
    labelled_spoilt: int = 3
    learning_rate: float = 5e-4
    scale_learning_rate: float = 2e-3  # of the LayerScales
    seed: int = 0


@dataclass(frozen=True)
class Lessons:
    """Tokens (n, L, 320) float16 by name: photos, spoilt photos of the same size, labelled photos with their patch
    labels (n, L), spoilt photos of the labelled photos' size.
    """

    clean: Mapping[str, Tensor]
    spoilt: Mapping[str, Tensor]
    labelled: Mapping[str, tuple[Tensor, Tensor]]
    labelled_spoilt: Mapping[str, Tensor]


def run_blocks(
    clip: Any, tokens: Tensor, *, attention: bool = False, half: bool = False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Tokens (B, L, 320) through all blocks: unit image embeddings, unit patch embeddings, head-mean attention maps."""
    patches, maps = raw_patches(clip, tokens, attention=attention, half=half)
    return functional.normalize(patches.mean(1), dim=-1), functional.normalize(patches, dim=-1), maps


def raw_patches(
    clip: Any, tokens: Tensor, *, attention: bool = False, half: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Tokens (B, L, 320), or middle maps (B, 112, s, s), through all blocks: patch embeddings (B, L, 161) as they are
    pooled, attention maps.

    With `half`, matrix products are in bfloat16; what is returned is float32 either way.
    """
    x, maps = tokens.float(), []
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=half):
        if tokens.dim() == 4:
            x = upper_tokens(clip, x).float()
        for block in clip.visual.trunk.blocks:
            z = block.norm1(x)
            attn = block.attn
            q, k, v = attn.qkv(z).reshape(*z.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            if attention:
                weights = (q * attn.scale @ k.transpose(-2, -1)).softmax(-1)
                maps.append(weights.float().mean(1))
                mixed = weights.to(v.dtype) @ v
            else:
                mixed = functional.scaled_dot_product_attention(q, k, v)
            x = x + block.ls1(attn.proj(mixed.transpose(1, 2).flatten(2)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        patches: Tensor = clip.visual.head(x)
    return patches.float(), maps


def upper_tokens(clip: Any, middle: Tensor) -> Tensor:
    """Middle maps (B, 112, s, s) through the rest of the trunk: what the first block is given, (B, s*s, 320)."""
    embed = clip.visual.trunk.patch_embed
    net = embed.backbone.net
    x = middle.contiguous(memory_format=torch.channels_last)
    for block in net.blocks[MIDDLE_STAGE + 1 :]:
        x = block(x)
    head = net.bn2(net.conv_head(x))
    place = position_channels(head.shape[-2], head.shape[-1], torch.zeros(1)).expand(len(head), -1, -1, -1)
    tokens: Tensor = embed.proj(torch.cat([head, middle, place], dim=1)).flatten(2).transpose(1, 2)
    return tokens


def n_patches(tokens: Tensor) -> int:
    """Patches of a picture of tokens (n, L, 320) or middle maps (n, 112, s, s)."""
    return tokens.shape[1] if tokens.dim() == 3 else tokens.shape[2] * tokens.shape[3]


class Adaptation:
    """One run of the three lessons over the blocks of `clip`, in place."""

    half = False
    watch: Callable[[int, Mapping[str, float]], None] | None = None

    def __init__(
        self, clip: Any, rows: Tensor, words: Mapping[str, Tensor], lessons: Lessons, scale: float, seed: int
    ) -> None:
        """`rows` (1000, 160): unit rows of ImageNet's classes; `words`: unit targets (160,)."""
        self.clip, self.lessons, self.scale = clip, lessons, scale
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        region_words = dict.fromkeys(word for allowed in REGIONS.values() for word in allowed)
        self.names = list(dict.fromkeys([*region_words, *OTHER_WORDS]))
        self.rows = functional.pad(rows, (0, 1))
        self.words = functional.pad(torch.stack([words[name] for name in self.names]), (0, 1))
        self.every_word = torch.cat([self.rows, self.words])
        self.allowed = torch.zeros(len(REGIONS), len(self.names))
        for number, right in enumerate(REGIONS.values()):
            self.allowed[number, [self.names.index(word) for word in right]] = 1
        self.weights = self._choose_weights()
        self._wake()
        self.start = {name: self._start(name, tokens) for name, tokens in lessons.clean.items()}

    @torch.no_grad()
    def _start(self, name: str, tokens: Tensor) -> Tensor:
        """Where the photos of a set are before the first step."""
        parts = [tokens[i : i + 64] for i in range(0, len(tokens), 64)]
        return torch.cat([run_blocks(self.clip, part, half=self.half)[0] for part in parts])

    def _choose_weights(self) -> list[tuple[str, Tensor]]:
        self.clip.requires_grad_(False)
        *earlier, last = self.clip.visual.trunk.blocks
        chosen = [(name, weight) for block in earlier for name, weight in block.named_parameters()]
        chosen += [("attn.qkv.weight", last.attn.qkv.weight), ("attn.qkv.bias", last.attn.qkv.bias)]
        for _, weight in chosen:
            weight.requires_grad_(True)
        for weight in (last.attn.qkv.weight, last.attn.qkv.bias):
            weight.register_hook(_without_value)
        return chosen

    def _wake(self) -> None:
        """The MLPs of all blocks but the last start to matter."""
        with torch.no_grad():
            for block in self.clip.visual.trunk.blocks[:-1]:
                block.ls2.gamma.fill_(0.05)

    def run(self, schedule: AdaptSchedule) -> dict[str, float]:
        """Train. Returns the last value of each loss."""
        groups = self._groups(schedule)
        every = [weight for weights, _ in groups for weight in weights]
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": rate} for params, rate in groups], betas=(0.9, 0.98), weight_decay=0.0
        )
        last: dict[str, float] = {}
        for step in range(schedule.steps):
            factor = min(1.0, step / 30) * (0.5 + 0.5 * math.cos(math.pi * step / schedule.steps)) + 0.01
            for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = rate * factor
            loss, parts = self._lesson(step, schedule)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(every, 1.0)
            optimizer.step()
            last.update(parts)
            if self.watch is not None:
                self.watch(step, last)
        return last

    def _groups(self, schedule: AdaptSchedule) -> list[tuple[list[Tensor], float]]:
        scales = [weight for name, weight in self.weights if name.endswith("gamma")]
        others = [weight for name, weight in self.weights if not name.endswith("gamma")]
        return [(scales, schedule.scale_learning_rate), (others, schedule.learning_rate)]

    def _lesson(self, step: int, schedule: AdaptSchedule) -> tuple[Tensor, dict[str, float]]:
        return self._unlabelled(schedule) if step % 2 == 0 else self._labelled(schedule)

    def _unlabelled(self, schedule: AdaptSchedule) -> tuple[Tensor, dict[str, float]]:
        name = self.rng.choice(list(self.lessons.clean))
        clean, start = self.lessons.clean[name], self.start[name]
        index = torch.randint(0, len(clean), (schedule.clean,))
        spoilt = self._spoilt(self.lessons.spoilt, schedule.spoilt)
        images, patches, _ = run_blocks(self.clip, torch.cat([clean[index], spoilt]), half=self.half)
        now, before = images[: schedule.clean], start[index]
        named = functional.kl_div(
            (self.scale * now @ self.rows.T).log_softmax(1),
            (self.scale * before @ self.rows.T).softmax(1),
            reduction="batchmean",
        )
        place = 1 - functional.cosine_similarity(now[:, :DIMENSIONS], before[:, :DIMENSIONS], dim=1).mean()
        doubt = self._doubt(images[schedule.clean :])
        still = self._keep(name, index, patches[: schedule.clean], schedule)
        return named + 8 * place + 0.7 * doubt + still, {
            "named": named.item(),
            "place": place.item(),
            "doubt": doubt.item(),
        }

    def _keep(self, name: str, index: Tensor, patches: Tensor, schedule: AdaptSchedule) -> Tensor:
        """What else should stay of photos `index` of a set; nothing here."""
        return patches.sum() * 0

    def _labelled(self, schedule: AdaptSchedule) -> tuple[Tensor, dict[str, float]]:
        tokens, labels = self.lessons.labelled[self.rng.choice(list(self.lessons.labelled))]
        index = torch.randint(0, len(tokens), (schedule.labelled,))
        spoilt = self._spoilt(self.lessons.labelled_spoilt, schedule.labelled_spoilt)
        batch = torch.cat([tokens[index], spoilt])
        images, patches, maps = run_blocks(self.clip, batch, attention=True, half=self.half)
        agree = self._agree(patches[: schedule.labelled], labels[index])
        within = torch.stack([_within(m[: schedule.labelled], labels[index]) for m in maps]).mean()
        doubt = self._doubt(images[schedule.labelled :])
        loss = 0.6 * agree + 0.3 * within + 0.5 * doubt
        return loss, {"agree": agree.item(), "within": within.item(), "doubt_labelled": doubt.item()}

    def _spoilt(self, sets: Mapping[str, Tensor], count: int) -> Tensor:
        # Scrambled photos are the hard ones: three draws in five.
        names = [name for name in sets for _ in range(3 if "scramble" in name else 1)]
        tokens = sets[self.rng.choice(names)]
        return tokens[torch.randint(0, len(tokens), (count,))]

    def _doubt(self, images: Tensor) -> Tensor:
        """Divergence of the flat distribution from the softmax over all words."""
        log_p = (self.scale * images @ self.every_word.T).log_softmax(1)
        return -log_p.mean(1).mean() - math.log(len(self.every_word))

    def _agree(self, patches: Tensor, labels: Tensor) -> Tensor:
        p = (self.scale * patches @ self.words.T).softmax(-1)
        known = (labels != IGNORE) & (labels != NOT_PERSON)
        terms = []
        if known.any():
            terms.append(-(p[known] * self.allowed[labels[known]]).sum(-1).clamp_min(1e-4).log().mean())
        if (labels == NOT_PERSON).any():
            person = p[labels == NOT_PERSON][:, self.names.index("person")]
            terms.append(-(1 - person).clamp_min(1e-4).log().mean())
        return torch.stack(terms).sum() if terms else patches.sum() * 0


def _within(attention: Tensor, labels: Tensor) -> Tensor:
    """Minus the log share of a labelled patch's attention that stays in its region."""
    labelled = labels != IGNORE
    same = (labels[:, :, None] == labels[:, None, :]) & labelled[:, :, None]
    if not labelled.any():
        return attention.sum() * 0
    return -(attention * same).sum(-1)[labelled].clamp_min(1e-4).log().mean()


def _without_value(gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept[2 * WIDTH :] = 0
    return kept


def word_targets(vocabulary: Mapping[str, Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The targets of single words, from whichever group holds them.

    Raises:
        ValueError: a word that no group holds.
    """
    out: dict[str, Tensor] = {}
    for name in names:
        found = next((group[name] for group in vocabulary.values() if name in group), None)
        if found is None:
            raise ValueError(f"the vocabulary has no word {name!r}")
        out[name] = found
    return out
