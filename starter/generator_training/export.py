"""The trained parts as a folder of Stable Diffusion, or of Stable Diffusion 3: fp16 safetensors, read by the loader
that reads every other model.
"""

from pathlib import Path
from typing import Any

import torch

from maskmill.starter.generator_training import diffusion, flow
from maskmill.starter.generator_training.autoencoder import load_autoencoder, psnr
from maskmill.starter.generator_training.diffusion import Trainer
from maskmill.starter.generator_training.loop import load_checkpoint
from maskmill.starter.generator_training.models import make_flow_scheduler, make_scheduler, make_tokenizer
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
    trained = Trainer(tokenizer, work / "diffusion.pt").averaged()
    make: Any = diffusers.StableDiffusionPipeline  # its constructor carries no types
    return make(
        vae=autoencoder.to(memory_format=torch.contiguous_format),
        text_encoder=trained["text"],
        tokenizer=tokenizer,
        unet=trained["unet"].to(memory_format=torch.contiguous_format),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def folder_size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def trained_flow_pipeline(work: Path) -> Any:
    """The joint-attention pipeline of the averaged weights in `work`, float32.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    import diffusers

    if not (work / "flow.pt").exists():
        raise FileNotFoundError(f"{work}: train the flow model first")
    tokenizer = make_tokenizer(work / "tokenizer")
    trained = flow.FlowTrainer(tokenizer, work / "flow.pt", compiled=False).averaged()
    make: Any = diffusers.StableDiffusion3Pipeline  # its constructor carries no types
    return make(
        transformer=trained["transformer"],
        scheduler=make_flow_scheduler(),
        vae=flow.shipped_autoencoder(),
        text_encoder=trained["text"],
        tokenizer=tokenizer,
        text_encoder_2=trained["text_2"],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def export(world: World, work: Path, folder: Path) -> int:
    """Write the pipeline in half precision and its model card to `folder`; returns the bytes of its files."""
    pipeline = trained_pipeline(work)
    quality = psnr(pipeline.vae, world.images[:64])
    decoder_steps = _steps(work / "autoencoder.pt")
    said = {"steps": _steps(work / "diffusion.pt"), "decoder_steps": decoder_steps, "psnr": quality}
    return _write(pipeline, folder, "card.md", {"scenes": len(world.images), **said})


def export_flow(world: World, work: Path, folder: Path) -> int:
    """The same of the joint-attention pipeline."""
    said = {"scenes": len(world.images), "steps": _steps(work / "flow.pt")}
    return _write(trained_flow_pipeline(work), folder, "card_mmdit.md", said)


def _write(pipeline: Any, folder: Path, card: str, said: dict[str, Any]) -> int:
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    words = Path(__file__).with_name(card).read_text(encoding="utf-8")
    filled = words.format(megabytes=folder_size(folder) / 1e6, batch=diffusion.BATCH, **said)
    (folder / "README.md").write_text(filled, encoding="utf-8")
    return folder_size(folder)


def _steps(path: Path) -> int:
    state = load_checkpoint(path)
    return 0 if state is None else int(state["step"])
