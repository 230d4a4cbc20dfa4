"""What Stable Diffusion 1.x, 2.x and XL share: a UNet whose cross-attention is read against the class words alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from maskmill.generators.attention_masks import ClassMaps, class_maps
from maskmill.generators.capture import AttentionStore, Layer, Words, attention_layers, choose_grid, watching
from maskmill.generators.config import Reading
from maskmill.generators.families.base import Encoded, Family
from maskmill.generators.requests import Request
from maskmill.generators.spans import ClassPrompt, Window, class_spans, fit_prompt, lineup_spans

Grid = tuple[int, int]


@dataclass
class WatchedUNet:
    """An attention store and the class prompts that its columns belong to; `grids` = (cross, self)."""

    store: AttentionStore
    prompts: Sequence[ClassPrompt]
    grids: tuple[Grid, Grid]
    lineups: Sequence[ClassPrompt] | None = None

    @property
    def active(self) -> bool:
        """Maps are added only while this is set."""
        return self.store.active

    @active.setter
    def active(self, on: bool) -> None:
        self.store.active = on

    def maps(self) -> list[ClassMaps]:
        """Attention to each class's tokens on the self grid, and self-attention."""
        own, cross = self.store.averages()
        found = [ClassMaps(class_maps(c, p, *self.grids), o) for c, o, p in zip(cross, own, self.prompts, strict=True)]
        beside = self.store.lineup
        if beside is None or self.lineups is None:
            return found
        return [
            one._replace(lineup=class_maps(seen, lineup, *self.grids))
            for one, seen, lineup in zip(found, beside, self.lineups, strict=True)
        ]


class UNetFamily(Family):
    """Class-prompt cross-attention of a UNet (Dataset Diffusion)."""

    readings: ClassVar[tuple[Reading, ...]] = ("cross",)
    denoiser = "unet"

    def native_size(self) -> tuple[int, int]:
        """The UNet's own."""
        native, scale = self.pipeline.unet.config.sample_size, self.pipeline.vae_scale_factor
        rows, columns = (native, native) if isinstance(native, int) else native
        return rows * scale, columns * scale

    def multiple(self) -> int:
        """The autoencoder's factor."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def guided(self) -> bool:
        """As the pipelines decide: distilled models with a guidance embedding have no unconditional half."""
        return self.config.guidance > 1 and self.pipeline.unet.config.time_cond_proj_dim is None

    def finest(self, latent: Grid) -> tuple[int, int]:
        """Longest sides of the finest cross and self grids that are taken by default."""
        return 16, 32

    def choose(self) -> None:
        """One cross and one self resolution."""
        scale, mask = self.multiple(), self.config.mask
        latent = (self.size[0] // scale, self.size[1] // scale)
        layers, finest = attention_layers(self.pipeline.unet, latent), self.finest(latent)
        cross = choose_grid(layers, "cross", mask.cross_resolution, finest[0])
        own = choose_grid(layers, "self", mask.self_resolution, finest[1])
        self.grids = (cross, own)
        self.cross_layers: list[Layer] = [la for la in layers if la.kind == "cross" and la.grid == cross]
        self.self_layers: list[Layer] = [la for la in layers if la.kind == "self" and la.grid == own]

    @property
    def window(self) -> Window:
        """CLIP's tokenizer."""
        return Window.clip(self.pipeline.tokenizer)

    def locate(self, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
        """Spans in the class prompt."""
        return class_spans(self.window, names, class_ids)

    def fit(self, prompt: str, class_prompt: str) -> tuple[str, bool]:
        """Into CLIP's window."""
        return fit_prompt(self.window, prompt, class_prompt)

    def encode(self, requests: Sequence[Request], prompts: Sequence[ClassPrompt], texts: Sequence[str]) -> Encoded:
        """Class prompts are encoded as prompts are."""
        classes = self.words([prompt.text for prompt in prompts])
        negatives = [request.negative_prompt or "" for request in requests]
        lineups = beside = None
        if self.config.mask.lineup:
            pairs = zip(prompts, requests, strict=True)
            lineups = [lineup_spans(self.window, prompt, one.names, one.others) for prompt, one in pairs]
            beside = self.words([lineup.text for lineup in lineups])
        arguments = self.embed(list(texts), negatives if self.guided else None)
        return Encoded(arguments, (prompts, classes, lineups, beside))

    def words(self, texts: list[str]) -> Words:
        """Texts to read attention against; CLIP's padding is read like any token, as the model reads it."""
        return Words(self.embed(texts, None)["prompt_embeds"])

    @property
    def denoising(self) -> Any:
        """The network whose attention is watched."""
        return self.pipeline.unet

    @property
    def project(self) -> Callable[[Any], Any] | None:
        """What the network does to texts before its layers see them."""
        return None

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """Texts as arguments of the pipeline; without `negatives` the conditional half alone."""
        found = self.pipeline.encode_prompt(texts, self.device, 1, negatives is not None, negatives)
        return {"prompt_embeds": found[0], **({} if negatives is None else {"negative_prompt_embeds": found[1]})}

    @contextmanager
    def watch(self, encoded: Encoded) -> Iterator[WatchedUNet]:
        """Watchers on the chosen layers."""
        prompts, classes, lineups, beside = encoded.classes
        store = self.store()
        store.begin(classes, self.guided, beside, self.project)
        with watching(self.denoising, store, self.cross_layers, self.self_layers):
            yield WatchedUNet(store, prompts, self.grids, lineups)

    def store(self) -> AttentionStore:
        """Where maps are summed."""
        return AttentionStore()

    def account(self) -> dict[str, Any]:
        """The two grids."""
        return {"grids": {"cross": self.grids[0], "self": self.grids[1]}}

    def unwatched(self) -> list[Any]:
        """Down, middle and up blocks without a watched layer."""
        unet = self.pipeline.unet
        watched = {layer.name for layer in (*self.cross_layers, *self.self_layers)}
        groups = {f"down_blocks.{i}.": block for i, block in enumerate(unet.down_blocks)}
        groups |= {f"up_blocks.{i}.": block for i, block in enumerate(unet.up_blocks)}
        groups |= {"mid_block.": unet.mid_block} if unet.mid_block is not None else {}
        return [block for prefix, block in groups.items() if not any(name.startswith(prefix) for name in watched)]
