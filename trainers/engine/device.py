"""Which device and which number format to train in."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from maskmill.trainers.engine.config import TrainerConfig
from maskmill.vision.device import pick_device


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Resolve `auto`: bf16 where the hardware multiplies it natively, fp16 on older GPUs, fp32 on CPUs without such
    units.

    A CPU without AMX or AVX-512 bf16 emulates bf16 products in fp32, which is slower than fp32 itself.
    """
    if wanted != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`; no context at all for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def prepare(config: TrainerConfig) -> tuple[torch.device, torch.dtype]:
    """Set the threads that the config asks for; return device and number format."""
    if config.runtime.threads is not None:
        torch.set_num_threads(config.runtime.threads)
    device = pick_device(config.runtime.device)
    return device, pick_precision(config.precision, device)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards each submodule is back in the mode that it had (frozen norms
    stay frozen).
    """
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def widened(x: Tensor) -> Tensor:
    """`x` in fp32 where autocast left it narrower; fp64 stays."""
    return x if x.dtype == torch.float64 else x.float()
