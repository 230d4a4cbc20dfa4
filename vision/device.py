"""Which device models run on: every room asks here."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

AUTO = "MASKMILL_DEVICE"  # of the environment: what `auto` means
CALLS = 3  # the fastest counts: others waited for somebody


def pick_device(name: str = "auto") -> "torch.device":
    """`auto` is what the environment's MASKMILL_DEVICE names, else cuda where there is one, else cpu; anything else is
    taken as torch's name of the device.

    Raises:
        ValueError: no such device, or a GPU that this machine does not have.
    """
    import torch

    said = f"{AUTO}=" if name == "auto" else "device "
    wanted = os.environ.get(AUTO, "auto") if name == "auto" else name
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f"{said}{wanted!r}: expected auto, cpu, cuda, cuda:1 …") from error
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"{said}{wanted!r}: torch finds {count} GPUs here; auto takes what there is, cpu always works")
    return device


def fastest(call: Callable[[], object], device: "torch.device") -> float:
    """Seconds of the fastest of a few calls, after one to warm up, each until the device is done."""
    import torch

    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return min([once() for _ in range(1 + CALLS)][1:])
