"""What the pair-wise losses cost, forward and backward: half-window sums with gradients by hand, and the unfolded form.

Arms: `unfold`, `half_window`, and `gain` = how many times less the second needs. Metrics: CPU seconds on one thread
(the best of a few steps, so that a busy machine changes little) and peak extra memory in MiB of the Potts loss with its
colour kernel (`potts_s`, `potts_mib`: 4 images, 21 classes, 128 x 128, radius 5) and of local saliency coherence
(`lsc_s`, `lsc_mib`: 16 images, 1 channel, 80 x 80, radius 5). Every figure comes from a process of its own; a seed is a
repetition. `--data` is not needed.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Options, Record, parse_options
from maskmill.vision.windows import colour_kernel, l1_energy, potts_energy

RADIUS, XY, COLOUR = 5, 6.0, 0.1
SHAPES = {"potts": (4, 21, 128, 128), "lsc": (16, 1, 80, 80)}
REPEATS = 3


def unfolded(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, window, h, w), zero padded."""
    side = 2 * RADIUS + 1
    return F.unfold(x, side, padding=RADIUS).view(len(x), x.shape[1], side * side, *x.shape[2:])


def unfold_kernel(image: Tensor) -> Tensor:
    """The Gaussian kernel (N, 1, window, h, w) with its centre and the padding gated out."""
    batch, _, height, width = image.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([xs, ys]).to(image).expand(batch, 2, height, width) / XY
    features = torch.cat([place, image / COLOUR], dim=1)
    gaps = ((unfolded(features) - features.unsqueeze(2)) ** 2).sum(dim=1, keepdim=True)
    kernel = torch.exp(-0.5 * gaps) * unfolded(torch.ones_like(image[:, :1]))
    kernel[:, :, (2 * RADIUS + 1) ** 2 // 2] = 0
    return kernel


def unfold_potts(p: Tensor, image: Tensor) -> Tensor:
    kernel = unfold_kernel(image)
    smoothed = (kernel * unfolded(p)).sum(dim=2)
    return (kernel.sum() - (smoothed * p).sum()) / (p.numel() / p.shape[1])


def unfold_lsc(p: Tensor, image: Tensor) -> Tensor:
    return (unfold_kernel(image) * (unfolded(p) - p.unsqueeze(2)).abs()).sum() / p.numel()


def half_potts(p: Tensor, image: Tensor) -> Tensor:
    return potts_energy(p, colour_kernel(image, RADIUS, XY, COLOUR), RADIUS, p.numel() / p.shape[1])


def half_lsc(p: Tensor, image: Tensor) -> Tensor:
    return l1_energy(p, colour_kernel(image, RADIUS, XY, COLOUR), RADIUS, float(p.numel()))


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "unfold potts": unfold_potts,
    "unfold lsc": unfold_lsc,
    "half_window potts": half_potts,
    "half_window lsc": half_lsc,
}


def step(form: str, shape: tuple[int, ...], seed: int) -> tuple[float, float, float]:
    """(seconds, loss, norm of the gradient) of one forward and backward."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(shape[0], 3, *shape[2:], generator=generator)
    raw = torch.randn(shape, generator=generator)
    p = (raw.softmax(dim=1) if shape[1] > 1 else raw.sigmoid()).requires_grad_()
    begun = time.process_time()
    loss = FORMS[form](p, image)
    (grad,) = torch.autograd.grad(loss, p)
    return time.process_time() - begun, loss.item(), float(grad.norm())


def memory_kib(name: str) -> int:
    """A line of /proc/self/status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(form: str, seed: int) -> dict[str, float]:
    """Least CPU seconds of a few steps, peak resident memory above the start's, loss and gradient norm."""
    torch.set_num_threads(1)  # CPU time then is the work done, however many processes share the cores
    kind = form.split()[1]
    step(form, (1, SHAPES[kind][1], 12, 12), seed)  # starts threads and loads kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory_kib("VmRSS")
    first = step(form, SHAPES[kind], seed)
    peak = (memory_kib("VmHWM") - before) / 1024
    seconds = min(first[0], *(step(form, SHAPES[kind], seed)[0] for _ in range(REPEATS - 1)))
    return {"s": seconds, "mib": peak, "loss": first[1], "grad": first[2]}


def in_own_process(form: str, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.kernel_cost", "--measure", form, str(seed)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def run(options: Options) -> None:
    """Both forms of both losses, and what the second saves."""
    record = Record.open(options)
    for seed in options.seeds:
        found = {form: in_own_process(form, seed) for form in FORMS}
        for kind in SHAPES:
            slow, fast = found[f"unfold {kind}"], found[f"half_window {kind}"]
            if abs(slow["grad"] - fast["grad"]) > 1e-3 * slow["grad"]:
                raise ArithmeticError(f"{kind}: gradients differ: unfold {slow['grad']}, half window {fast['grad']}")
        for arm in ("unfold", "half_window"):
            each = {kind: found[f"{arm} {kind}"] for kind in SHAPES}
            record.add(arm, seed, {f"{kind}_{unit}": v[unit] for kind, v in each.items() for unit in ("s", "mib")})
        slow_arm, fast_arm = record.values["unfold"][str(seed)], record.values["half_window"][str(seed)]
        record.add("gain", seed, {name: slow_arm[name] / max(fast_arm[name], 1e-9) for name in slow_arm})
    record.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        run(parse_options("kernel_cost", __doc__, needs_data=False))
