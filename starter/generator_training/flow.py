"""Train the joint-attention starter: Stable Diffusion 3's transformer and two text encoders, on the latents and
captions that the UNet learns from, by flow matching.

The line from picture to noise is walked at constant speed: x = (1 - s) latents + s noise, and what is predicted is
noise - latents. Beside that, the maps of concept tokens (ConceptAttention's reading, mean over all blocks) are taught
to lie on the objects, as the UNet's cross-attention is. Blocks are compiled, which wants a C++ compiler.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.data_contracts import load_label_space
from maskmill.generators.config import BACKGROUND
from maskmill.generators.spans import encode
from maskmill.generators.words import class_words, classes_in
from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS
from maskmill.starter.generator_training.diffusion import BATCH, CLASSES, DROP_TEXT, tokens_of, weighted_error
from maskmill.starter.generator_training.loop import RATE, Average, Training, Turn, load_checkpoint, save_checkpoint
from maskmill.starter.generator_training.models import (
    LATENT_SIZE,
    make_autoencoder,
    make_flow_text_encoders,
    make_tokenizer,
    make_transformer,
)
from maskmill.starter.generator_training.muon import Muon
from maskmill.starter.generator_training.world import World
from maskmill.vision.starter import starter_path

RIVALS = len(BACKGROUND) + 1  # the usual words, and the scene's
WORD_TOKENS = 8  # no word of the drawn world has more pieces, with its start and end
SPREAD = 1.2  # deviation of the logit of s: as Stable Diffusion 3, a little wider, for samplings of few steps


@dataclass(frozen=True)
class FlowLesson:
    """What one training set holds. `latents` (N, 8, 16, 16) scaled; `tokens` int64 (N, T); `shares` (N, 3, 256): cover
    of each cell by class k; `concepts` int64 (N, 3 + RIVALS): rows of `words` (W, WORD_TOKENS), classes first, -1 =
    none; `pieces` (W, WORD_TOKENS): the mean over a word's pieces.
    """

    latents: Tensor
    tokens: Tensor
    shares: Tensor
    concepts: Tensor
    words: Tensor
    pieces: Tensor


def shipped_autoencoder() -> Any:
    """The autoencoder of the UNet's folder, which both share, with nothing of where it lay."""
    import diffusers

    load: Any = diffusers.AutoencoderTiny
    shipped = load.from_pretrained(starter_path("generator") / "vae", torch_dtype=torch.float32)
    model = make_autoencoder()
    model.load_state_dict(shipped.state_dict())
    model.register_to_config(scaling_factor=shipped.config.scaling_factor)
    return model.eval()


@torch.no_grad()
def shared_latents(world: World, path: Path) -> Tensor:
    """Latents of all scenes, scaled as the shipped autoencoder's config says; kept at `path`."""
    from maskmill.starter.generator_training.autoencoder import to_signal

    if (state := load_checkpoint(path)) is not None:
        found: Tensor = state["latents"]
        return found
    model = shipped_autoencoder()
    parts = [model.encode(to_signal(world.images[i : i + 64])).latents for i in range(0, len(world.images), 64)]
    latents: Tensor = torch.cat(parts) * model.config.scaling_factor
    save_checkpoint(path, {"latents": latents})
    return latents


def make_flow_lesson(world: World, tokenizer: Any, latents: Tensor) -> FlowLesson:
    """Tokens, concepts and cell covers of every scene."""
    space = load_label_space("voc")
    named = class_words(space)
    vocabulary = list(dict.fromkeys([*named.values(), *BACKGROUND, *BACKGROUND_WORDS]))
    row = {word: index for index, word in enumerate(vocabulary)}
    count, cell = len(world.captions), world.masks.shape[1] // LATENT_SIZE
    concepts = torch.full((count, CLASSES + RIVALS), -1)
    shares = torch.zeros(count, CLASSES, LATENT_SIZE**2)
    for i, (caption, class_prompt) in enumerate(zip(world.captions, world.class_prompts, strict=True)):
        for k, class_id in enumerate(classes_in(class_prompt, space)):
            concepts[i, k] = row[named[class_id]]
            cover = (world.masks[i] == class_id).reshape(LATENT_SIZE, cell, LATENT_SIZE, cell).mean(axis=(1, 3))
            shares[i, k] = torch.from_numpy(cover.astype(np.float32)).flatten()
        scene = caption.partition(";")[0].rpartition(", ")[2]
        rivals = dict.fromkeys([*([scene] if scene in BACKGROUND_WORDS else []), *BACKGROUND])
        concepts[i, CLASSES : CLASSES + len(rivals)] = torch.tensor([row[word] for word in rivals])
    pieces = torch.zeros(len(vocabulary), WORD_TOKENS)
    for index, word in enumerate(vocabulary):
        own = len(encode(tokenizer, word))
        pieces[index, 1 : 1 + own] = 1 / own
    words = tokens_of(tokenizer, vocabulary)[:, :WORD_TOKENS]
    return FlowLesson(latents, tokens_of(tokenizer, world.captions), shares, concepts, words, pieces)


def encoded(encoders: tuple[Any, Any], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Text tokens (B, T, 128) and pooled vectors (B, 128), as Stable Diffusion 3's pipeline makes them of two CLIPs."""
    found = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    hidden = torch.cat([one.hidden_states[-2] for one in found], dim=-1)
    return hidden, torch.cat([one.text_embeds for one in found], dim=-1)


def block_with_concepts(
    block: Any, image: Tensor, text: Tensor, concepts: Tensor, temb: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One block of Stable Diffusion 3 for image (B, n, D), text (B, m, D) and concept tokens (B, C, D), of which `real`
    bool (B, C) are there: the three after the block, and the concepts' shares of each image token (B, n, C).

    Image and text are what the block makes of them alone; concepts are read as `generators.joint_attention` does.
    """
    attn, tokens, words = block.attn, image.shape[1], text.shape[1]
    normed, gate, shift, scale, gate_mlp = block.norm1(image, emb=temb)
    both = torch.cat([text, concepts], dim=1)  # concepts use all that the text stream has
    after = () if block.context_pre_only else block.norm1_context(both, emb=temb)
    both_normed = after[0] if after else block.norm1_context(both, temb)

    def heads(part: str, norm: Any, x: Tensor) -> Tensor:
        split = getattr(attn, part)(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        found: Tensor = split if norm is None else norm(split)
        return found

    query, key, value = (
        heads("to_q", attn.norm_q, normed), heads("to_k", attn.norm_k, normed), heads("to_v", None, normed)
    )  # fmt: skip
    own_query, own_key, own_value = (
        heads("add_q_proj", attn.norm_added_q, both_normed),
        heads("add_k_proj", attn.norm_added_k, both_normed),
        heads("add_v_proj", None, both_normed),
    )
    mixed = F.scaled_dot_product_attention(
        torch.cat([query, own_query[:, :, :words]], dim=2),
        torch.cat([key, own_key[:, :, :words]], dim=2),
        torch.cat([value, own_value[:, :, :words]], dim=2),
    )
    seen = torch.cat([real.new_ones(real.shape[0], tokens), real], dim=1)[:, None, None]
    asked = F.scaled_dot_product_attention(
        own_query[:, :, words:],
        torch.cat([key, own_key[:, :, words:]], dim=2),
        torch.cat([value, own_value[:, :, words:]], dim=2),
        attn_mask=seen,
    )
    mixed, asked = mixed.transpose(1, 2).flatten(2), asked.transpose(1, 2).flatten(2)
    scores = mixed[:, :tokens].float() @ F.normalize(asked.float(), dim=-1).transpose(1, 2)
    shares = torch.softmax(scores.masked_fill(~real[:, None], float("-inf")), dim=-1)
    image = image + gate[:, None] * attn.to_out[0](mixed[:, :tokens])
    inner = block.norm2(image) * (1 + scale[:, None]) + shift[:, None]
    image = image + gate_mlp[:, None] * block.ff(inner)
    if after:
        _, gate, shift, scale, gate_mlp = after
        both = both + gate[:, None] * attn.to_add_out(torch.cat([mixed[:, tokens:], asked], dim=1))
        inner = block.norm2_context(both) * (1 + scale[:, None]) + shift[:, None]
        both = both + gate_mlp[:, None] * block.ff_context(inner)
    return image, both[:, :words], both[:, words:], shares


def make_flow_optimisers(transformer: Any, parameters: list[Tensor]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the streams, AdamW for modulation, embeddings, the last layer and the text encoders."""
    inner = [
        p for n, p in transformer.transformer_blocks.named_parameters() if p.ndim == 2 and ".linear." not in f".{n}"
    ]
    chosen = {id(p) for p in inner}
    others = [p for p in parameters if id(p) not in chosen]
    return [Muon(inner, RATE), torch.optim.AdamW(others, RATE, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)]


class FlowTrainer(Training[FlowLesson]):
    """Transformer and text encoders, resumed from `path` where that exists."""

    name = "flow"

    def __init__(self, tokenizer: Any, path: Path, seed: int = 0, compiled: bool = True) -> None:
        torch.manual_seed(seed)
        self.tokenizer = tokenizer
        self.transformer = make_transformer()
        self.encoders = make_flow_text_encoders(tokenizer)
        self.empty = tokens_of(tokenizer, [""])
        modules = {"transformer": self.transformer, "text": self.encoders[0], "text_2": self.encoders[1]}
        parameters = [p for module in modules.values() for p in module.parameters()]
        super().__init__(path, modules, make_flow_optimisers(self.transformer, parameters), seed)
        self.block: Any = torch.compile(block_with_concepts) if compiled else block_with_concepts

    def begin_from(self, folder: Path) -> None:
        """Take the weights of a Stable Diffusion 3 folder with parts of these sizes; a word piece that its tokenizer
        has not keeps its first embedding.
        """
        from transformers import CLIPTokenizer

        parts = {"transformer": "transformer", "text": "text_encoder", "text_2": "text_encoder_2"}
        known = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
        rows = {index: known[piece] for piece, index in self.tokenizer.get_vocab().items() if piece in known}
        for name, part in parts.items():
            module = self.modules[name]
            own = module.state_dict()
            kept = type(module).from_pretrained(folder / part, torch_dtype=torch.float32).state_dict()
            for key in (k for k in kept if k.endswith("token_embedding.weight")):
                own[key][list(rows)] = kept[key][list(rows.values())]
                kept[key] = own[key]
            module.load_state_dict(kept)
        self.average = Average(self.average.parameters, self.average.decay)

    def forward(
        self, noisy: Tensor, sigmas: Tensor, text: Tensor, pooled: Tensor, concepts: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The flow (B, 8, 16, 16) that the transformer predicts, and the concepts' shares (B, 256, C), meaned over
        blocks. `text` (B, T, 128), `concepts` (B, C, 128) of the text encoders; T5's zeros are added here.
        """
        model = self.transformer
        text = torch.cat([text, torch.zeros_like(text)], dim=1)
        temb = model.time_text_embed(1000 * sigmas, pooled)
        image, text, concepts = model.pos_embed(noisy), model.context_embedder(text), model.context_embedder(concepts)
        total = 0
        for block in model.transformer_blocks:
            image, text, concepts, shares = self.block(block, image, text, concepts, temb, real)
            total = total + shares
        cells = model.proj_out(model.norm_out(image, temb))
        flow = cells.transpose(1, 2).unflatten(2, (LATENT_SIZE, LATENT_SIZE))
        return flow, torch.as_tensor(total) / len(model.transformer_blocks)

    def losses(self, lesson: FlowLesson) -> tuple[Tensor, Tensor]:
        """Flow loss and map loss of the batch that belongs to this step."""
        rng = np.random.default_rng((self.seed, self.step))
        torch.manual_seed(self.seed + self.step)
        picks = torch.from_numpy(rng.integers(len(lesson.latents), size=BATCH))
        tokens = torch.where(torch.rand(BATCH, 1) < DROP_TEXT, self.empty, lesson.tokens[picks])
        latents, shares, rows = lesson.latents[picks], lesson.shares[picks], lesson.concepts[picks]
        noise = torch.randn_like(latents)
        sigmas = torch.sigmoid(SPREAD * torch.special.ndtri((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH))
        s = sigmas.view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            text, pooled = encoded(self.encoders, tokens)
            words = (encoded(self.encoders, lesson.words)[0] * lesson.pieces[:, :, None]).sum(dim=1)
            noisy = (1 - s) * latents + s * noise
            flow, found = self.forward(noisy, sigmas, text, pooled, words[rows.clamp_min(0)], rows >= 0)
        cover = shares.sum(dim=1).view(-1, LATENT_SIZE, LATENT_SIZE)
        return weighted_error(flow.float(), noise - latents, cover), map_loss(found[:, :, :CLASSES], rows, shares)


def map_loss(found: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """Binary cross-entropy of each present class's share (B, 256, 3) of a cell against its cover (B, 3, 256)."""
    present = (rows[:, :CLASSES, None] >= 0).float()
    got = found.transpose(1, 2).float().clamp(1e-4, 1 - 1e-4)
    losses = F.binary_cross_entropy(got, shares, reduction="none") * present
    return losses.sum() / present.sum() / shares.shape[-1]


def train(world: World, work: Path, minutes: float, last: bool, start: Path | None = None) -> int:
    """One turn of flow training in `work`, its clock starting at the first step; returns the steps so far. A first
    turn begins from the weights in the folder `start`, if one is given.
    """
    tokenizer = make_tokenizer(work / "tokenizer")
    lesson = make_flow_lesson(world, tokenizer, shared_latents(world, work / "flow_latents.pt"))
    trainer = FlowTrainer(tokenizer, work / "flow.pt")
    if start is not None and trainer.step == 0:
        trainer.begin_from(start)
    trainer.take_turn(lesson, Turn.begin(minutes, last))
    return trainer.step
