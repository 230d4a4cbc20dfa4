"""The trained parts as one Stable Diffusion folder: fp16 safetensors, read by the loader that reads every other
model.
"""

from pathlib import Path
from typing import Any

import torch

from maskmill.starter.generator_training import diffusion
from maskmill.starter.generator_training.autoencoder import load_autoencoder, psnr
from maskmill.starter.generator_training.diffusion import Trainer
from maskmill.starter.generator_training.loop import load_checkpoint
from maskmill.starter.generator_training.models import make_scheduler, make_tokenizer
from maskmill.starter.generator_training.world import World


def trained_pipeline(work: Path) -> Any:
    """The pipeline of the averaged weights in `work`, float32.

    Raises:
        FileNotFoundError: the autoencoder or the diffusion model was not trained yet.
    """
    import diffusers

    latents = load_checkpoint(work / "latents.pt")
    if latents is None or not (work / "diffusion.pt").exists():
        raise FileNotFoundError(f"{work}: train the diffusion model first")
    autoencoder = load_autoencoder(work / "autoencoder.pt")
    autoencoder.register_to_config(scaling_factor=latents["scaling"])
    tokenizer = make_tokenizer(work / "tokenizer")
    trainer = Trainer(tokenizer, work / "diffusion.pt")
    with torch.no_grad():
        for parameter, value in zip(trainer.average.parameters, trainer.average.values, strict=True):
            parameter.copy_(value)
    make: Any = diffusers.StableDiffusionPipeline  # its constructor carries no types
    return make(
        vae=autoencoder.to(memory_format=torch.contiguous_format),
        text_encoder=trainer.text.eval(),
        tokenizer=tokenizer,
        unet=trainer.unet.to(memory_format=torch.contiguous_format).eval(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def folder_size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def export(world: World, work: Path, folder: Path) -> int:
    """Write the pipeline in half precision and its model card to `folder`; returns the bytes of its files."""
    pipeline = trained_pipeline(work)
    quality = psnr(pipeline.vae, world.images[:64])
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    steps, decoder_steps = (_steps(work / name) for name in ("diffusion.pt", "autoencoder.pt"))
    card = (
        Path(__file__)
        .with_name("card.md")
        .read_text(encoding="utf-8")
        .format(
            megabytes=folder_size(folder) / 1e6,
            scenes=len(world.images),
            steps=steps,
            batch=diffusion.BATCH,
            decoder_steps=decoder_steps,
            psnr=quality,
        )
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder_size(folder)


def _steps(path: Path) -> int:
    state = load_checkpoint(path)
    return 0 if state is None else int(state["step"])
