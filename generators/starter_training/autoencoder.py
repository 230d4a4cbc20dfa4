"""Train the starter's autoencoder on crops of drawn scenes: absolute error, error of image gradients, a light KL
term.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from generators.starter_training.loop import Average, Turn, load_checkpoint, save_checkpoint
from generators.starter_training.models import make_autoencoder

BATCH, CROP, RATE, WARMUP, KL_WEIGHT, LOG_EVERY = 32, 32, 2e-3, 100, 5e-4, 50


def to_signal(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """A batch of random crops, half of them mirrored. Every fourth batch holds whole pictures, so that borders are
    learnt.
    """
    whole = rng.random() < 0.25
    size, count = (images.shape[1], BATCH // 4) if whole else (CROP, BATCH)
    picks = rng.integers(len(images), size=count)
    corners = rng.integers(images.shape[1] - size + 1, size=(count, 2))
    cut = [images[i, y : y + size, x : x + size] for i, (y, x) in zip(picks, corners, strict=True)]
    flipped = [c[:, ::-1] if rng.random() < 0.5 else c for c in cut]
    return to_signal(np.stack(flipped)).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of values and of horizontal and vertical differences (edges)."""
    difference = drawn - wanted
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + 0.5 * edges


def train(images: NDArray[np.uint8], path: Path, turn: Turn, seed: int = 0) -> int:
    """One turn; resumes from `path` and leaves its checkpoint there. Returns the number of steps taken so far."""
    torch.manual_seed(seed)
    model = make_autoencoder().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    average = Average(list(model.parameters()), decay=0.998)
    step = 0
    if (state := load_checkpoint(path)) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.values, step = state["average"], state["step"]
    seen = 0.0
    while turn.spent < 1:
        torch.manual_seed(seed + step)
        batch = crops(images, np.random.default_rng((seed, step)))
        posterior = model.encode(batch).latent_dist
        loss = reconstruction_loss(model.decode(posterior.sample()).sample, batch)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        optimiser.zero_grad()
        (loss + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = RATE * turn.rate(step, WARMUP)
        optimiser.step()
        average.update(step)
        seen += float(loss)
        step += 1
        if step % LOG_EVERY == 0:
            rate = f"turn {turn.spent:.0%} loss {seen / LOG_EVERY:.4f} kl {float(kl):.2f}"
            print(f"autoencoder step {step} {rate}", flush=True)
            seen = 0.0
    save_checkpoint(
        path,
        {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average.values, "step": step},
    )
    return step


def load_autoencoder(path: Path) -> torch.nn.Module:
    """The averaged autoencoder of a checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    if (state := load_checkpoint(path)) is None:
        raise FileNotFoundError(f"{path}: train the autoencoder first")
    model: torch.nn.Module = make_autoencoder()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), state["average"], strict=True):
            parameter.copy_(value)
    return model.eval()


@torch.no_grad()
def psnr(model: torch.nn.Module, images: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of reconstructions, dB over 8-bit values."""
    wanted = to_signal(images)
    drawn = model.decode(model.encode(wanted).latent_dist.mode()).sample.clamp(-1, 1)  # type: ignore[operator]
    return float(10 * torch.log10(4 / F.mse_loss(drawn, wanted)))
