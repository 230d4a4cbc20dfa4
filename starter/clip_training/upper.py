"""The last lesson of the starter CLIP: the trunk's last stages learn the drawn world together with the blocks.

As drawings.py, from stored maps of the trunk's middle instead of tokens: the stages after `MIDDLE_STAGE`, the head
convolution and the projection to tokens learn, too, slower than the blocks; their batch norms and depthwise kernels
stay as they are. Scenes are shown as they are and restyled: other colours, flat colours, dark outlines. More styles
than ship: `styles.yaml`, by `starter.drawn.build` and `starter.drawn.store --styles`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from maskmill.starter.clip_training.adapt import AdaptSchedule, Lessons
from maskmill.starter.clip_training.drawings import SPOILERS, DrawnAdaptation, DrawnSchedule, Manner, Stored, as_drawn
from maskmill.starter.clip_training.photos import BATCH, Spoilt, find_photos, load_photo, spoil
from maskmill.starter.clip_training.regions import REGION_SETS, in_training_part, patch_labels
from maskmill.vision.clip.folding import folded
from maskmill.vision.clip.towers import MIDDLE_STAGE

SIDE = 224
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class UpperSchedule(DrawnSchedule):
    """Of the last lesson."""

    steps: int = 1600
    clean: int = 14
    learning_rate: float = 5e-4
    scale_learning_rate: float = 1e-3
    trunk_learning_rate: float = 1e-4
    drawn_tokens: int = 4800


class UpperAdaptation(DrawnAdaptation):
    """`lessons` and `drawn` hold middle maps float16 (n, 112, s, s) where the earlier lessons hold tokens."""

    def _choose_weights(self) -> list[tuple[str, Tensor]]:
        chosen = super()._choose_weights()
        for part in _upper(self.clip):
            _fix_depthwise(part)
        self.trunk_weights = [weight for part in _upper(self.clip) for weight in _kernels(part)]
        for weight in self.trunk_weights:
            weight.requires_grad_(True)
        return chosen

    def _groups(self, schedule: AdaptSchedule) -> list[tuple[list[Tensor], float]]:
        if not isinstance(schedule, UpperSchedule):
            raise TypeError(f"expected an UpperSchedule, found {type(schedule).__name__}")
        return [*super()._groups(schedule), (self.trunk_weights, schedule.trunk_learning_rate)]


def _upper(clip: Any) -> list[nn.Module]:
    embed = clip.visual.trunk.patch_embed
    net = embed.backbone.net
    return [*net.blocks[MIDDLE_STAGE + 1 :], net.conv_head, embed.proj]


def _kernels(part: nn.Module) -> Iterator[Tensor]:
    for module in part.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            yield from module.parameters()


class _ByFlippedKernel(torch.autograd.Function):
    """A depthwise convolution of odd kernel and stride 1 whose kernel does not learn.

    The gradient of its input is the convolution with the flipped kernel, by the forward routine: on CPUs the library's
    own backward of dilated depthwise convolutions takes 20 times as long.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, kernel: Tensor, padding: int, dilation: int) -> Tensor:
        context.kernel, context.shape = kernel, (padding, dilation)
        return functional.conv2d(x, kernel, padding=padding, dilation=dilation, groups=len(kernel))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        padding, dilation = context.shape
        kernel = context.kernel.flip((2, 3))
        back = functional.conv2d(gradients[0], kernel, padding=padding, dilation=dilation, groups=len(kernel))
        return back, None, None, None


class _Depthwise(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.to(x.dtype)
        out: Tensor = _ByFlippedKernel.apply(x, kernel, self.padding[0], self.dilation[0])
        return out


def _fix_depthwise(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.__class__ = _Depthwise


def stored_middle(clip: Any, work: Path) -> Stored:
    """Middle maps float16 (n, 112, s, s) of pictures, kept in `work`."""
    lower = folded(clip.visual.trunk.patch_embed.backbone.net)

    def keep(name: str, images: Iterable[Tensor]) -> Tensor:
        file = work / f"{name}.lower.npy"
        if not file.is_file():
            scratch = file.with_suffix(".tmp.npy")
            np.save(scratch, _middle(lower, images))
            scratch.rename(file)
        return torch.from_numpy(np.load(file))

    return keep


@torch.inference_mode()
def _middle(net: Any, images: Iterable[Tensor]) -> NDArray[np.float16]:
    parts, waiting = [], iter(images)
    while batch := list(islice(waiting, BATCH)):
        x = (torch.stack(batch) * 2 - 1).contiguous(memory_format=torch.channels_last)
        x = net.bn1(net.conv_stem(x))
        for block in net.blocks[: MIDDLE_STAGE + 1]:
            x = block(x)
        parts.append(x.half().contiguous().numpy())
    return np.concatenate(parts)


def upper_lessons(keep: Stored, folders: Sequence[Path], data: Path) -> Lessons:
    """Photos of `folders` and the training parts of the labelled sets below `data`; every second one is spoilt, too."""
    labelled, labelled_spoilt, every = {}, {}, []
    for regions in REGION_SETS:
        found = find_photos(data / regions.folder / "images")
        chosen = [path for path in found if in_training_part(path.stem)]
        name = f"{regions.folder}.{regions.side}"
        labelled[regions.folder] = keep(name, _photos(chosen, regions.side)), patch_labels(regions, data, chosen)
        labelled_spoilt[f"{regions.folder}.scramble"] = _spoilt(keep, chosen, regions.side, name, "scramble")
        every += chosen[::2]
    sets = {folder.name: find_photos(folder) for folder in folders} | {"regions": every}
    return Lessons(
        clean={name: keep(name, _photos(chosen, SIDE)) for name, chosen in sets.items()},
        spoilt={f"{n}.{how}": _spoilt(keep, chosen, SIDE, n, how) for n, chosen in sets.items() for how in SPOILERS},
        labelled=labelled,
        labelled_spoilt=labelled_spoilt,
    )


def _photos(paths: Sequence[Path], side: int) -> Iterator[Tensor]:
    return (load_photo(path, side) for path in paths)


def _spoilt(keep: Stored, paths: Sequence[Path], side: int, name: str, how: Spoilt) -> Tensor:
    rng = random.Random(f"{name}.{how}")
    return keep(f"{name}.{how}", (spoil(photo, how, rng) for photo in _photos(paths[::2], side)))


def restyle(images: NDArray[np.uint8], rng: random.Random) -> Iterator[NDArray[np.uint8]]:
    """Images uint8 (n, S, S, 3) as another hand might have drawn them, one by one."""
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        for change, share in ((_recoloured, 0.7), (_flattened, 0.35), (_outlined, 0.5)):
            if rng.random() < share:
                x = change(x, rng).clamp(0, 1)
        yield (x * 255).round().byte().permute(1, 2, 0).numpy()


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)


def _recoloured(x: Tensor, rng: random.Random) -> Tensor:
    """Channels in another order, less or more colour, brighter or darker."""
    order = rng.sample(range(3), 3) if rng.random() < 0.4 else [0, 1, 2]
    x = x[order]
    grey = _grey(x)
    x = grey + rng.choice((0.0, 0.3, 0.6, 1.0, 1.4)) * (x - grey)
    middle = x.mean()
    return (middle + rng.uniform(0.6, 1.4) * (x - middle)) * rng.uniform(0.75, 1.2)


def _flattened(x: Tensor, rng: random.Random) -> Tensor:
    """Few grey levels a channel, after a slight blur."""
    levels = rng.choice((3, 4, 6))
    soft = functional.avg_pool2d(functional.pad(x[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    return (soft * levels).round() / levels


def _outlined(x: Tensor, rng: random.Random) -> Tensor:
    """Dark lines where colours change."""
    width = rng.choice((1, 1, 2)) * max(1, x.shape[-1] // 96)
    size = 2 * width + 1
    padded = functional.pad(x[None], (width,) * 4, mode="replicate")
    spread = functional.max_pool2d(padded, size, 1) + functional.max_pool2d(-padded, size, 1)
    edge = ((spread[0].amax(0, keepdim=True) - rng.uniform(0.2, 0.4)) * 6).clamp(0, 1)
    return x * (1 - rng.uniform(0.6, 1.0) * edge)


#: How scenes are shown in the last lesson.
MANNERS: Mapping[str, Manner] = {"": as_drawn, ".restyled": restyle}
