"""The starter's autoencoder: a linear encoder in closed form, and a decoder trained on crops of drawn scenes.

The encoder takes the leading principal components of 4 x 4 patches, written into the weights of its four
convolutions. So the latents are known before anything is trained: coarse channels first, each scaled by the fourth
root of its variance (half way to white: details must not shout down what the picture shows).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskmill.starter.generator_training.loop import Average, Turn, load_checkpoint, save_checkpoint
from maskmill.starter.generator_training.models import LATENT_CHANNELS, PATCH_VALUES, make_autoencoder

BATCH, CROP, RATE, WARMUP, LOG_EVERY = 16, 32, 2e-3, 100, 100
SHAKE = 0.05  # noise on latents in training: the decoder will be given latents that a UNet drew
DEVIATION = 0.5  # of latents inside the autoencoder, whose decoder saturates beyond 3
FITTED_ON = 600  # scenes whose patches give the principal components


def to_signal(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_components(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Projection (LATENT_CHANNELS, 48) and offset (LATENT_CHANNELS,) for 4 x 4 patches of values 0..1, order (row,
    column, RGB).
    """
    count, height, width, _ = images.shape
    cut = images.reshape(count, height // 4, 4, width // 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = cut.reshape(-1, PATCH_VALUES).astype(np.float64) / 255
    mean = patches.mean(axis=0)
    variances, components = np.linalg.eigh(np.cov(patches.T))
    leading, variances = components[:, ::-1][:, :LATENT_CHANNELS].T, variances[::-1][:LATENT_CHANNELS]
    leading *= np.sign(leading[np.arange(LATENT_CHANNELS), np.abs(leading).argmax(axis=1)])[
        :, None
    ]  # eigh picks any sign
    scales = DEVIATION * variances**-0.25 / np.sqrt(np.sqrt(variances).mean())
    projection = leading * scales[:, None]
    return projection, -projection @ mean


@torch.no_grad()
def write_encoder(model: Any, projection: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """Put the projection into the encoder: copy the colours, gather 2 x 2, gather 2 x 2 again, project."""
    colours, gather, gather_again, project = model.encoder.layers
    for layer in (colours, gather, gather_again, project):
        layer.weight.zero_()
    colours.bias.zero_()
    for channel in range(3):
        colours.weight[channel, channel, 1, 1] = 1
    for row, column in np.ndindex(2, 2):
        for channel in range(3):
            gather.weight[(2 * row + column) * 3 + channel, channel, 1 + row, 1 + column] = 1
        for channel in range(12):
            gather_again.weight[(2 * row + column) * 12 + channel, channel, 1 + row, 1 + column] = 1
    # channel of a value after both gathers -> its place in a patch of order (row, column, RGB)
    places = [
        ((2 * outer_row + row) * 4 + 2 * outer_column + column) * 3 + channel
        for outer_row, outer_column, row, column, channel in np.ndindex(2, 2, 2, 2, 3)
    ]
    project.weight[:, :, 1, 1] = torch.from_numpy(projection[:, places]).float()
    project.bias.copy_(torch.from_numpy(offset).float())


def fitted_autoencoder(images: NDArray[np.uint8]) -> Any:
    """An autoencoder whose encoder is fitted to the first scenes and whose decoder is fresh."""
    model = make_autoencoder()
    write_encoder(model, *patch_components(images[:FITTED_ON]))
    return model


def crops(images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """A batch of random crops, half of them mirrored. Every fourth batch holds whole pictures, so that borders are
    learnt.
    """
    whole = rng.random() < 0.25
    size, count = (images.shape[1], BATCH // 4) if whole else (CROP, BATCH)
    picks = rng.integers(len(images), size=count)
    corners = 4 * rng.integers((images.shape[1] - size) // 4 + 1, size=(count, 2))  # on the grid of patches
    cut = [images[i, y : y + size, x : x + size] for i, (y, x) in zip(picks, corners, strict=True)]
    flipped = [c[:, ::-1] if rng.random() < 0.5 else c for c in cut]
    return to_signal(np.stack(flipped)).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of values and of horizontal and vertical differences (edges)."""
    difference = drawn - wanted
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return difference.abs().mean() + 0.5 * edges


def train(images: NDArray[np.uint8], path: Path, turn: Turn, seed: int = 0) -> int:
    """One turn of decoder training; resumes from `path` and leaves its checkpoint there. Returns the steps taken so
    far.
    """
    torch.manual_seed(seed)
    model = fitted_autoencoder(images).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.decoder.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    average = Average(list(model.decoder.parameters()), decay=0.995)
    step = 0
    if (state := load_checkpoint(path)) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.values, step = state["average"], state["step"]
    seen = 0.0
    while turn.spent < 1:
        torch.manual_seed(seed + step)
        batch = crops(images, np.random.default_rng((seed, step)))
        with torch.no_grad():
            latents = model.encode(batch).latents
        loss = reconstruction_loss(model.decode(latents + SHAKE * torch.randn_like(latents)).sample, batch)
        for group in optimiser.param_groups:
            group["lr"] = RATE * turn.rate(step, WARMUP)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimiser.step()
        average.update(step)
        seen += float(loss.detach())
        step += 1
        if step % LOG_EVERY == 0:
            print(f"autoencoder step {step} turn {turn.spent:.0%} loss {seen / LOG_EVERY:.4f}", flush=True)
            seen = 0.0
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average.values, "step": step}
    save_checkpoint(path, state)
    return step


@torch.no_grad()
def load_autoencoder(path: Path) -> Any:
    """The autoencoder of a checkpoint with its averaged decoder, in evaluation mode.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    if (state := load_checkpoint(path)) is None:
        raise FileNotFoundError(f"{path}: train the autoencoder first")
    model = make_autoencoder()
    model.load_state_dict(state["model"])
    for parameter, value in zip(model.decoder.parameters(), state["average"], strict=True):
        parameter.copy_(value)
    return model.eval()


@torch.no_grad()
def psnr(model: Any, images: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of reconstructions, dB over 8-bit values."""
    wanted = to_signal(images)
    drawn = model.decode(model.encode(wanted).latents).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / F.mse_loss(drawn, wanted)))
