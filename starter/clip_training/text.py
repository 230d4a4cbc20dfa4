"""The text tower, taught without photos: a prompt's embedding should be its noun's place in the space.

Loss: 4 (1 - cosine) + the divergence between both softmaxes over the 1,000 class rows. Token embeddings start as the
sentence encoder's, projected to the tower's width, so that word pieces that no noun trains still mean something.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from maskmill.starter.clip_training.sentences import SentenceEncoder
from maskmill.starter.clip_training.vocabulary import Vocabulary

MAX_NOUN_TOKENS = 14
SOFTMAX_SCALE = 25.0
PAIR_SHARE = 0.12  # of samples that name two nouns; their target lies between the nouns'
SHARES = {"hand": 0.18, "core": 0.30, "full": 0.10, "common": 0.25, "broad": 0.17}
TEMPLATES = (
    *["{}"] * 5,
    *["a photo of a {}."] * 2,
    *["a clean origami {}."] * 2,
    "a photo of a {}",
    "a photo of the {}.",
    "an image of a {}.",
    "a picture of a {}.",
    "{} in the scene.",
    "a photo of many {}.",
    "a bad photo of a {}.",
    "a good photo of the {}.",
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a black and white photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of one {}.",
    "a drawing of a {}.",
    "a cartoon {}.",
    "itap of a {}.",
    "there is a {} in the scene.",
    "a photo of a {} in the background.",
    "a low resolution photo of a {}.",
    "the {}",
    "a {}",
    "an {}",
    "this is a {}.",
    "a photo of {}.",
    "a red {}",
    "a white {}",
    "a black {}",
    "a brown {}",
    "a big {}",
    "a young {}",
    "two {}",
    "a {} on the grass",
    "a photograph of a {}, outdoors",
    "a realistic photo of a {}",
    "photo of {}",
    "a clear photo of the {}.",
    "{} head",
    "{} face",
    "{} side view",
    "side view of a {}",
    "wild {}",
    "{} symbol",
    "a toy {}",
    "{} animal",
)


@dataclass(frozen=True)
class TextSchedule:
    """Steps of 256 prompts with a cosine decay of the learning rate after 100 steps of warm-up."""

    steps: int = 3500
    batch: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


class PromptSampler:
    """Random prompts about the vocabulary, as token lists, with their targets."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any, seed: int) -> None:
        self.rng = random.Random(seed)
        encode: Callable[[str], list[int]] = tokenizer.encode
        self.start, self.end = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.groups = list(SHARES)
        self.tokens = {g: [encode(text)[:MAX_NOUN_TOKENS] for text in vocabulary[g]] for g in self.groups}
        self.targets = {g: torch.stack(list(vocabulary[g].values())) for g in self.groups}
        self.templates = [tuple(encode(part) for part in template.split("{}")) for template in TEMPLATES]
        self.joints = [encode(","), encode(","), encode("and")]

    def draw(self) -> tuple[list[int], Tensor]:
        group = self.rng.choices(self.groups, list(SHARES.values()))[0]
        noun, target = self._noun(group)
        if group != "full" and self.rng.random() < PAIR_SHARE:
            other, other_target = self._noun(group if self.rng.random() < 0.7 else "core")
            noun = [*noun, *self.rng.choice(self.joints), *other]
            target = functional.normalize(target + other_target, dim=0)
        before, after = self.rng.choice(self.templates)
        return [self.start, *before, *noun, *after, self.end], target

    def _noun(self, group: str) -> tuple[list[int], Tensor]:
        index = self.rng.randrange(len(self.tokens[group]))
        return self.tokens[group][index], self.targets[group][index]

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Four batches of prompts of like length, so that padding is short: ids (size, L), targets."""
        drawn = sorted((self.draw() for _ in range(4 * size)), key=lambda sample: len(sample[0]))
        parts = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        self.rng.shuffle(parts)
        return [(pad([tokens for tokens, _ in part]), torch.stack([t for _, t in part])) for part in parts]


def pad(tokens: Sequence[Sequence[int]]) -> Tensor:
    """Token lists to ids (n, longest), zeros at the end."""
    out = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
    for row, ids in enumerate(tokens):
        out[row, : len(ids)] = torch.tensor(ids)
    return out


def short_encode_text(clip: Any, ids: Tensor) -> Tensor:
    """open_clip's `encode_text` on ids (n, L) with L below the context length: the causal mask makes it the same."""
    length = ids.shape[1]
    x = functional.embedding(ids, clip.token_embedding.weight, sparse=True) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    out: Tensor = clip.ln_final(x[torch.arange(len(ids)), ids.argmax(1)]) @ clip.text_projection
    return out


def start_tokens(clip: Any, tokenizer: Any) -> None:
    """Token embeddings from the sentence encoder's word pieces of the same spelling, where there is one."""
    pieces, vectors = SentenceEncoder().word_pieces()
    centred = vectors - vectors.mean(0)
    torch.manual_seed(0)
    _, _, axes = torch.pca_lowrank(centred, clip.token_embedding.embedding_dim, center=False)
    small = centred @ axes
    small = small / small.std() * 0.03
    with torch.no_grad():
        for token, index in tokenizer.encoder.items():
            spelling = token.replace("</w>", "")
            piece = pieces.get(spelling, pieces.get("##" + spelling))
            if piece is not None:
                clip.token_embedding.weight[index] = small[piece]


def train_text(clip: Any, tokenizer: Any, vocabulary: Vocabulary, rows: Tensor, schedule: TextSchedule) -> float:
    """Train the text tower of `clip` in place. Returns the mean cosine of the last 100 steps.

    Args:
        rows: the classifier's rows (1000, D) in the space. The embedding may be longer; what is past D is kept near 0.
    """
    start_tokens(clip, tokenizer)
    sampler = PromptSampler(vocabulary, tokenizer, schedule.seed)
    names = ("transformer.", "positional_embedding", "ln_final.", "text_projection")
    weights = [p for name, p in clip.named_parameters() if name.startswith(names)]
    optimizers = (
        torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)),
        torch.optim.SparseAdam([clip.token_embedding.weight], lr=schedule.learning_rate, betas=(0.9, 0.99)),
    )
    waiting: list[tuple[Tensor, Tensor]] = []
    cosines: list[float] = []
    for step in range(schedule.steps):
        waiting = waiting or sampler.batches(schedule.batch)
        decay = 0.5 + 0.5 * math.cos(math.pi * step / schedule.steps)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = schedule.learning_rate * min(1, step / 100) * decay + 1e-5
            optimizer.zero_grad()
        loss, cosine = _loss(clip, *waiting.pop(), rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        cosines.append(cosine)
    return sum(cosines[-100:]) / len(cosines[-100:])


def _loss(clip: Any, ids: Tensor, targets: Tensor, rows: Tensor) -> tuple[Tensor, float]:
    size = rows.shape[1]
    unit = functional.normalize(short_encode_text(clip, ids), dim=1)[:, :size]
    cosine = (unit * targets).sum(1).mean()
    wanted = (SOFTMAX_SCALE * targets @ rows.T).softmax(1)
    given = (SOFTMAX_SCALE * unit @ rows.T).log_softmax(1)
    return 4 * (1 - cosine) + functional.kl_div(given, wanted, reduction="batchmean"), cosine.item()
