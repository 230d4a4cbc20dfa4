"""A drawn pair as a SAMPLE row that says everything needed to draw it again; and drawing it again."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_contracts import IGNORE, LabelSpace, Uint8Array, decode_image, decode_mask, encode_image, encode_mask, pair_id
from data_contracts.manifest import package_versions
from generators.loading import model_fingerprint
from generators.text_to_image import Drawn, GeneratorConfig, Request, TextToImage, text_to_image

Row = dict[str, Any]
PACKAGES = ("maskmill", "torch", "diffusers", "transformers", "numpy", "pillow")


def surroundings(device: str) -> dict[str, Any]:
    """What the bytes of an image may depend on beside config and weights."""
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "versions": package_versions(PACKAGES),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


def class_areas(mask: Uint8Array, class_ids: list[int]) -> dict[str, float]:
    """Share of the image that each class covers."""
    return {str(c): round(float((mask == c).mean()), 6) for c in class_ids}


def provenance_extra(drawn: Drawn, engine: TextToImage) -> dict[str, Any]:
    """Everything that SAMPLE has no column for: the config, the request's words, and what became of the classes."""
    request = drawn.request
    return {
        "config": engine.config.model_dump(mode="json"),
        "height": engine.size[0],
        "width": engine.size[1],
        "prompt_id": request.prompt_id,
        "names": list(request.names),
        "classes_prompted": list(request.class_ids),
        "classes_drawn": drawn.class_ids,
        "classes_lost": drawn.lost_ids,
        "peaks": {str(c): p for c, p in drawn.peaks.items()},
        "areas": class_areas(drawn.mask, drawn.class_ids),
        "ignore_fraction": round(float((drawn.mask == IGNORE).mean()), 6),
        "caption_shortened": drawn.shortened,
        "grids": {"cross": engine.grids[0], "self": engine.grids[1]},
        **surroundings(engine.device),
    }


def sample_row(drawn: Drawn, engine: TextToImage, space: LabelSpace) -> Row:
    """A row of the SAMPLE contract for a drawn pair. Image and mask are PNG; the mask uses the space's palette."""
    request, config = drawn.request, engine.config
    image, mask = encode_image(drawn.image), encode_mask(drawn.mask, space.palette)
    return {
        "sample_id": pair_id(image, mask),
        "image": {"bytes": image, "path": None},
        "mask": {"bytes": mask, "path": None},
        "height": drawn.mask.shape[0],
        "width": drawn.mask.shape[1],
        "class_ids": drawn.class_ids,
        "prompt_class_ids": sorted(request.class_ids),
        "provenance": {
            "source": "diffusion",
            "model_id": config.model,
            "model_revision": model_fingerprint(config.model),
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "class_prompt": request.class_prompt,
            "seed": request.seed,
            "steps": config.steps,
            "guidance": config.guidance,
            "scheduler": engine.scheduler_name,
            "extra": json.dumps(provenance_extra(drawn, engine), sort_keys=True),
        },
    }


@dataclass(frozen=True, eq=False)
class Regenerated:
    """A sample made again. `same`: image and mask files are byte for byte those of the row; else `differences` says
    what is not.
    """

    image: bytes
    mask: bytes
    same: bool
    differences: tuple[str, ...]


def recorded_request(row: Mapping[str, Any]) -> tuple[GeneratorConfig, Request, dict[str, Any]]:
    """Config and request of a generated SAMPLE row, and its extra record.

    Raises:
        ValueError: the row was not drawn by a text-to-image model, or does not say how.
    """
    provenance = row["provenance"]
    if provenance["source"] != "diffusion" or not provenance["extra"]:
        raise ValueError(
            f"sample {row['sample_id']}: source is {provenance['source']!r}; only samples drawn from text "
            "(source 'diffusion') can be made again from their row"
        )
    extra: dict[str, Any] = json.loads(provenance["extra"])
    request = Request(
        prompt=provenance["prompt"],
        names=tuple(extra["names"]),
        class_ids=tuple(extra["classes_prompted"]),
        seed=int(provenance["seed"]),
        negative_prompt=provenance["negative_prompt"],
        prompt_id=extra["prompt_id"],
    )
    return GeneratorConfig.model_validate(extra["config"]), request, extra


def regenerate(row: Mapping[str, Any], space: LabelSpace) -> Regenerated:
    """Draw one SAMPLE row again from its provenance alone and compare it with what the row holds.

    Same machine, weights, packages and thread count give the same bytes; anything that changed is named.

    Raises:
        ValueError: see `recorded_request`. FileNotFoundError: the model is not there any more.
    """
    config, request, extra = recorded_request(row)
    engine = text_to_image(config)
    (drawn,) = engine.draw([request])
    image, mask = encode_image(drawn.image), encode_mask(drawn.mask, space.palette)
    same = image == row["image"]["bytes"] and mask == row["mask"]["bytes"]
    found = () if same else tuple(_changes(row, extra, engine) + _pixel_changes(row, drawn))
    return Regenerated(image, mask, same, found)


def _changes(row: Mapping[str, Any], extra: dict[str, Any], engine: TextToImage) -> list[str]:
    """What is not as it was when the row was made: weights, packages, device."""
    changes = []
    recorded, found = row["provenance"]["model_revision"], model_fingerprint(engine.config.model)
    if recorded != found:
        changes.append(f"model {engine.config.model}: weights were {recorded}, now {found}")
    now = surroundings(engine.device)
    for package, version in now["versions"].items():
        if extra["versions"].get(package) != version:
            changes.append(f"{package}: was {extra['versions'].get(package)}, now {version}")
    changes += [
        f"{key}: was {extra[key]}, now {now[key]}"
        for key in ("device", "device_name", "threads")
        if extra[key] != now[key]
    ]
    return changes


def _pixel_changes(row: Mapping[str, Any], drawn: Drawn) -> list[str]:
    """How far the new pixels are from those of the row."""
    changes = []
    image, mask = decode_image(row["image"]["bytes"]), decode_mask(row["mask"]["bytes"])
    if image.shape != drawn.image.shape:
        changes.append(
            f"image size: was {image.shape[1]}x{image.shape[0]}, now {drawn.image.shape[1]}x{drawn.image.shape[0]}"
        )
        return changes
    gap = np.abs(image.astype(np.int16) - drawn.image).max(axis=2)
    if gap.any():
        changes.append(f"image: {int((gap > 0).sum())} pixels differ, by at most {int(gap.max())} grey levels")
    if (different := int((mask != drawn.mask).sum())) > 0:
        changes.append(f"mask: {different} pixels differ")
    return changes or ["pixels are the same; the files are encoded differently"]
