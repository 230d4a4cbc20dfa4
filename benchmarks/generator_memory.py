"""What does watching cost? Denoisers of every family at their real depth, drawn with and without reading their maps.

    seconds             one image's denoising steps with maps read (CPU seconds of the process, wall seconds on CUDA)
    peak_gb             weights and the most tensor memory at a time, maps read
    watch_time_ratio    seconds with maps / without; the median over turns that alternate. Aim: below 1.15
    watch_memory_ratio  peak with maps / without. Aim: below 1.10
Arms: stable_diffusion, stable_diffusion_xl, pixart_sigma, sana, and for joint attention one a reading, such as
stable_diffusion_3_concept.

Weights are random. Budget `small` has the real depths at a quarter (UNets), an eighth (PixArt, Stable Diffusion 3), a
tenth (Sana) and a twelfth (FLUX, Qwen-Image) of the width, where reading costs relatively more than at full width;
`full` has the published widths at 512 pixels (without CUDA Stable Diffusion 1.5 alone). Maps are read as by default:
docs/generate.md says how.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import Options, Record, parse_options
from maskmill.generators.capture import AttentionStore, FrugalStore, Layer, attention_layers, choose_grid, watching
from maskmill.generators.config import Reading
from maskmill.generators.families.qwen_image import QwenTextStream
from maskmill.generators.families.sana import LinearStore
from maskmill.generators.joint_attention import JointWatch, Plan, Wanted
from maskmill.generators.joint_streams import TextStream

STEPS, TURNS = 1, 3
CONCEPTS = 7  # two classes and the words that compete


@dataclass(frozen=True)
class Case:
    """A denoiser, one call of it, and a watcher for the calls of one image; `calls` a step."""

    model: Any
    arguments: dict[str, Any]
    watch: Callable[[], AbstractContextManager[Any]]
    calls: int = 1


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes of tensors that were made inside and live at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._live: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._live.setdefault(storage._cdata, (reference, storage.nbytes()))
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return found


def noise(*shape: int, device: str) -> torch.Tensor:
    """Random numbers, the same for a shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(device)


def unet_case(xl: bool, width: int, latents: int, device: str) -> Case:
    """Stable Diffusion 1.5 or XL; `width` is the first level's."""
    from diffusers import UNet2DConditionModel

    text = 768 if not xl else 2048
    timestep = torch.tensor(500, device=device)
    arguments: dict[str, Any] = {"sample": noise(2, 4, latents, latents, device=device), "timestep": timestep}
    arguments["encoder_hidden_states"] = noise(2, 77, text, device=device)
    make: Any = partial(UNet2DConditionModel, norm_num_groups=32 if width % 32 == 0 else 16)
    if xl:
        model = make(
            sample_size=latents,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(width, 2 * width, 4 * width),
            cross_attention_dim=text,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        conditions = {"text_embeds": noise(2, 1280, device=device), "time_ids": noise(2, 6, device=device)}
        arguments["added_cond_kwargs"] = conditions
    else:
        widths = (width, 2 * width, 4 * width, 4 * width)
        model = make(sample_size=latents, block_out_channels=widths, cross_attention_dim=text, attention_head_dim=8)
    layers = attention_layers(model, (latents, latents))
    sides = (latents // 4, latents // 4) if xl else (16, 32)
    grids = [choose_grid(layers, kind, None, side) for kind, side in zip(("cross", "self"), sides, strict=True)]
    kinds = zip(("cross", "self"), grids, strict=True)
    cross, own = ([layer for layer in layers if (layer.kind, layer.grid) == wanted] for wanted in kinds)

    def watch() -> AbstractContextManager[None]:
        store = FrugalStore() if xl else AttentionStore()
        store.begin(noise(1, 77, text, device=device), guided=True)
        return watching(model, store, cross, own)

    return Case(model.to(device).eval(), arguments, watch)


def cross_case(sana: bool, heads: int, side: int, device: str) -> Case:
    """PixArt-Sigma or Sana 1.6B at their depths, with `heads` heads of self-attention and `side` tokens a side; the
    middle third of the blocks is read, the middle one's self-attention, too.
    """
    import diffusers

    make: Any
    if sana:
        make, channels, count = diffusers.SanaTransformer2DModel, 2304, 20
        width, more = 32 * heads, {"num_cross_attention_heads": max(1, 2 * heads // 7), "sample_size": side}
        model = make(num_attention_heads=heads, cross_attention_head_dim=112, cross_attention_dim=width, **more)
        size, latents = side, 32
    else:
        make, channels, count = diffusers.PixArtTransformer2DModel, 4096, 28
        width, more = 72 * heads, {"caption_channels": channels, "use_additional_conditions": False}
        model = make(num_attention_heads=heads, cross_attention_dim=width, sample_size=2 * side, **more)
        size, latents = 2 * side, 4
    arguments: dict[str, Any] = {
        "hidden_states": noise(2, latents, size, size, device=device),
        "encoder_hidden_states": noise(2, 300, channels, device=device),
        "encoder_attention_mask": torch.ones(2, 300, device=device),
        "timestep": torch.full((2,), 500, device=device),
    }
    if not sana:
        arguments["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    cross = [Layer(f"transformer_blocks.{i}.attn2.processor", "cross") for i in range(count // 3, count - count // 3)]
    own = [Layer(f"transformer_blocks.{count // 2}.attn1.processor", "self")]

    def project(words: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.caption_projection(words)
        return model.caption_norm(found) if sana else found

    def watch() -> AbstractContextManager[None]:
        store = LinearStore() if sana else FrugalStore()
        store.begin(noise(1, 300, channels, device=device), guided=True, project=project)
        return watching(model, store, cross, own)

    return Case(model.to(device).eval(), arguments, watch)


def qwen_case(reading: Reading, heads: int, side: int, device: str) -> Case:
    """Qwen-Image with `heads` heads and `side` image tokens a side; of its two calls a step one is read."""
    import diffusers

    arguments = {
        "hidden_states": noise(1, side * side, 64, device=device),
        "encoder_hidden_states": noise(1, 256, 3584, device=device),
        "encoder_hidden_states_mask": (torch.arange(256, device=device) < 64)[None],
        "timestep": torch.full((1,), 0.5, device=device),
        "img_shapes": [[(1, side, side)]],
    }
    make: Any = diffusers.QwenImageTransformer2DModel
    return watched_case(make(num_attention_heads=heads), arguments, reading, side, 3584, QwenTextStream(), device)


def watched_case(
    model: Any, arguments: dict[str, Any], reading: Reading, side: int, width: int, texts: TextStream, device: str
) -> Case:
    """A joint-attention transformer that reads texts of `width` numbers a token; FLUX in its last four blocks."""
    count, batch = len(model.transformer_blocks), len(arguments["hidden_states"])
    middle = frozenset({count // 2})
    last = hasattr(model, "single_transformer_blocks")
    blocks = middle if reading == "cross" else frozenset(range(count - 4 if last else 0, count))
    plan = Plan(reading, blocks, middle, (side, side))

    def watch() -> AbstractContextManager[None]:
        wanted = Wanted(noise(CONCEPTS, width, device=device), 2, ((3,), (4, 5)))
        return JointWatch(model, plan, [wanted], batch == 2 or texts.calls, texts).watching()

    return Case(model.to(device).eval(), arguments, watch, 2 if texts.calls else 1)


def joint_case(flux: bool, reading: Reading, heads: int, side: int, device: str) -> Case:
    """Stable Diffusion 3 Medium or FLUX.1 with `heads` heads and `side` image tokens a side."""
    import diffusers

    tokens, text = side * side, 512 if flux else 333
    batch = 1 if flux else 2
    arguments: dict[str, Any] = {
        "encoder_hidden_states": noise(batch, text, 4096, device=device),
        "pooled_projections": noise(batch, 768 if flux else 2048, device=device),
        "timestep": torch.full((batch,), 0.5, device=device),
    }
    if flux:
        make: Any = diffusers.FluxTransformer2DModel
        model = make(num_attention_heads=heads, guidance_embeds=True)
        places = torch.stack([torch.zeros(tokens), torch.arange(tokens) // side, torch.arange(tokens) % side], dim=1)
        arguments |= {"hidden_states": noise(1, tokens, 64, device=device), "guidance": torch.ones(1, device=device)}
        arguments |= {"img_ids": places.to(device), "txt_ids": torch.zeros(text, 3, device=device)}
    else:
        make = diffusers.SD3Transformer2DModel
        wide = {"num_attention_heads": heads, "caption_projection_dim": 64 * heads}
        model = make(sample_size=2 * side, num_layers=24, pos_embed_max_size=192, **wide)
        arguments["hidden_states"] = noise(2, 16, 2 * side, 2 * side, device=device)
    return watched_case(model, arguments, reading, side, 4096, TextStream(), device)


def draw(case: Case, watched: bool) -> None:
    """The denoising steps of one image."""
    with torch.no_grad(), case.watch() if watched else nullcontext():
        for _ in range(STEPS * case.calls):
            case.model(**case.arguments)


def seconds(case: Case, watched: bool, device: str) -> float:
    """CPU seconds of all threads: other processes do not count. On CUDA wall seconds."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    draw(case, watched)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def peak(case: Case, watched: bool, device: str) -> int:
    """Bytes of weights and of the most tensors at a time."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        draw(case, watched)
        return int(torch.cuda.max_memory_allocated())
    weights: int = sum(weight.numel() * weight.element_size() for weight in case.model.parameters())
    with Peak() as seen:
        draw(case, watched)
    return int(weights + seen.most)


def measure(case: Case, device: str) -> dict[str, float]:
    """The metrics of one arm."""
    draw(case, watched=True)  # warms up
    turns = [(seconds(case, True, device), seconds(case, False, device)) for _ in range(TURNS)]
    most, plain = peak(case, True, device), peak(case, False, device)
    return {
        "seconds": statistics.median(watched for watched, _ in turns),
        "peak_gb": most / 1e9,
        "watch_time_ratio": statistics.median(watched / alone for watched, alone in turns),
        "watch_memory_ratio": most / plain,
    }


def cases(budget: str, device: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Arms and how each is made."""
    full = budget == "full"
    width, latents, side = (320, 64, 32) if full else (80, 64, 16)
    yield "stable_diffusion", partial(unet_case, False, width, latents, device)
    if full and device == "cpu":
        return
    yield "stable_diffusion_xl", partial(unet_case, True, width, latents, device)
    yield "pixart_sigma", partial(cross_case, False, 16 if full else 2, side, device)
    yield "sana", partial(cross_case, True, 70 if full else 7, side, device)
    readings: tuple[Reading, ...] = ("concept", "cross", "anchor")
    for name, flux, heads in (("stable_diffusion_3", False, 24 if full else 3), ("flux", True, 24 if full else 2)):
        for reading in readings:
            yield f"{name}_{reading}", partial(joint_case, flux, reading, heads, side, device)
    for reading in readings:
        yield f"qwen_image_{reading}", partial(qwen_case, reading, 24 if full else 2, side, device)


def run(options: Options) -> None:
    """Every arm, one model at a time."""
    record = Record.open(options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for seed in options.seeds:
        for arm, make in cases(options.budget, device):
            if not record.has(arm, seed):
                torch.manual_seed(seed)
                found = measure(make(), device)
                record.add(arm, seed, found)
                print(f"  {arm:28s}", *(f"{name} {value:.3f}" for name, value in found.items()))
    record.finish(device=device)


if __name__ == "__main__":
    run(parse_options("generator_memory", __doc__, needs_data=False))
