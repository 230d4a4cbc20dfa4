"""A drawn pair as a SAMPLE row that says everything needed to draw it again; and drawing it again."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.data_contracts import (
    IGNORE,
    LabelSpace,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    foreground_ids,
    pair_id,
)
from maskmill.data_contracts.secrets import public, published
from maskmill.data_contracts.texts import parse_json
from maskmill.data_contracts.versions import package_versions
from maskmill.generators.config import GeneratorConfig, PracticalConfig
from maskmill.generators.loading import model_fingerprint
from maskmill.generators.mask_to_image import ControlConfig, DrawnLayout, LayoutRequest, MaskToImage, mask_to_image
from maskmill.generators.practical import lora_fingerprint
from maskmill.generators.requests import Request
from maskmill.generators.text_to_image import Drawn, TextToImage, text_to_image

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
        "config": published(engine.config),
        "height": engine.size[0],
        "width": engine.size[1],
        "batch_size": drawn.batch_size,
        "prompt_id": request.prompt_id,
        "names": list(request.names),
        "scene": request.scene,
        "classes_prompted": list(request.class_ids),
        "classes_drawn": drawn.class_ids,
        "classes_lost": drawn.lost_ids,
        "peaks": {str(c): p for c, p in drawn.peaks.items()},
        **({"signs": {str(c): signs for c, signs in drawn.signs.items()}} if drawn.signs else {}),
        "areas": class_areas(drawn.mask, drawn.class_ids),
        "ignore_fraction": round(float((drawn.mask == IGNORE).mean()), 6),
        "caption_shortened": drawn.shortened,
        "family": engine.family.name,
        "reading": engine.family.reading,
        **engine.family.account(),
        "loras": loras(engine.config),
        **surroundings(engine.device),
    }


def loras(config: PracticalConfig) -> list[dict[str, Any]]:
    """The low-rank adaptations of a config, each with the hash of its weights."""
    return [{**published(lora), "hash": lora_fingerprint(lora)} for lora in config.loras]


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
            "model_id": public(config.model),
            "model_revision": revision(config),
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


def layout_row(drawn: DrawnLayout, engine: MaskToImage, mask: Uint8Array | None = None) -> Row:
    """A row of the SAMPLE contract for an image drawn from a mask; `mask` replaces the label, e.g. after the region
    filter.
    """
    request, config = drawn.request, engine.config
    label = drawn.mask if mask is None else mask
    image, encoded = encode_image(drawn.image), encode_mask(label, engine.space.palette)
    ids = foreground_ids(label, engine.space)
    extra = {
        "config": published(config),
        "batch_size": drawn.batch_size,
        "mask_id": request.mask_id,
        "names": list(request.names),
        "classes_prompted": list(request.class_ids),
        "filtered": not np.array_equal(label, drawn.mask),
        "family": engine.family.name,
        "loras": loras(config),
        "areas": class_areas(label, ids),
        "ignore_fraction": round(float((label == IGNORE).mean()), 6),
        **surroundings(engine.device),
    }
    return {
        "sample_id": pair_id(image, encoded),
        "image": {"bytes": image, "path": None},
        "mask": {"bytes": encoded, "path": None},
        "height": label.shape[0],
        "width": label.shape[1],
        "class_ids": ids,
        "prompt_class_ids": sorted(request.class_ids),
        "provenance": {
            "source": "controlnet",
            "model_id": f"{public(config.model)} + {public(str(config.controlnet))}",
            "model_revision": revision(config),
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "class_prompt": " ".join(request.names),
            "seed": request.seed,
            "steps": config.steps,
            "guidance": config.guidance,
            "scheduler": type(engine.pipeline.scheduler).__name__,
            "extra": json.dumps(extra, sort_keys=True),
        },
    }


def revision(config: GeneratorConfig | ControlConfig) -> str:
    """Fingerprint of the model files behind a config, joined by those of a ControlNet and of LoRAs."""
    control = [model_fingerprint(config.controlnet)] if isinstance(config, ControlConfig) else []
    return " + ".join([model_fingerprint(config.model), *control, *map(lora_fingerprint, config.loras)])


@dataclass(frozen=True, eq=False)
class Regenerated:
    """A sample made again. `same`: both files are byte for byte those of the row; else `differences` says what is
    not.
    """

    image: bytes
    mask: bytes
    same: bool
    differences: tuple[str, ...]


def regenerate(row: Mapping[str, Any], space: LabelSpace) -> Regenerated:
    """Draw one SAMPLE row again from its provenance and compare it with what the row holds.

    Same machine, weights, packages and thread count give the same bytes; anything that changed is named.

    Raises:
        ValueError: the row was not drawn by a diffusion model, or its label was filtered after drawing.
        FileNotFoundError: the model is not there any more.
    """
    provenance = row["provenance"]
    if provenance["source"] not in ("diffusion", "controlnet") or not provenance["extra"]:
        raise ValueError(
            f"sample {row['sample_id']}: source is {provenance['source']!r}; only samples drawn by a model (sources "
            "'diffusion' and 'controlnet') can be drawn again"
        )
    extra: dict[str, Any] = parse_json(provenance["extra"])
    again = _draw_layout_again if provenance["source"] == "controlnet" else _draw_again
    config, device, drawn = again(row, extra, space)
    image, mask = encode_image(drawn.image), encode_mask(drawn.mask, space.palette)
    same = image == row["image"]["bytes"] and mask == row["mask"]["bytes"]
    found = () if same else tuple(_changes(row, extra, config, device) + _pixel_changes(row, drawn))
    return Regenerated(image, mask, same, found)


def _draw_again(row: Mapping[str, Any], extra: dict[str, Any], space: LabelSpace) -> tuple[GeneratorConfig, str, Drawn]:
    provenance = row["provenance"]
    request = Request(
        prompt=provenance["prompt"],
        names=tuple(extra["names"]),
        class_ids=tuple(extra["classes_prompted"]),
        seed=int(provenance["seed"]),
        negative_prompt=provenance["negative_prompt"],
        prompt_id=extra["prompt_id"],
        scene=extra.get("scene"),
    )
    config = GeneratorConfig.model_validate(_as_drawn(extra))
    engine = text_to_image(config)
    return config, engine.device, engine.draw([request])[0]


def _as_drawn(extra: Mapping[str, Any]) -> dict[str, Any]:
    """A row's config, with the batch size that it came to: smaller than asked for where memory ran out."""
    size = extra.get("batch_size")  # rows of earlier versions say nothing
    return {**extra["config"], **({"batch_size": size} if size else {})}


def _draw_layout_again(
    row: Mapping[str, Any], extra: dict[str, Any], space: LabelSpace
) -> tuple[ControlConfig, str, DrawnLayout]:
    if extra["filtered"]:
        raise ValueError(
            f"sample {row['sample_id']}: its label was filtered; draw it again from mask {extra['mask_id']}"
        )
    provenance = row["provenance"]
    request = LayoutRequest(
        prompt=provenance["prompt"],
        mask=decode_mask(row["mask"]["bytes"]),
        names=tuple(extra["names"]),
        class_ids=tuple(extra["classes_prompted"]),
        seed=int(provenance["seed"]),
        negative_prompt=provenance["negative_prompt"],
        mask_id=extra["mask_id"],
    )
    config = ControlConfig.model_validate(_as_drawn(extra))
    engine = mask_to_image(config, space)
    return config, engine.device, engine.draw([request])[0]


def _changes(
    row: Mapping[str, Any], extra: dict[str, Any], config: GeneratorConfig | ControlConfig, device: str
) -> list[str]:
    """What is not as it was when the row was made: weights, packages, device."""
    changes = []
    recorded, found = row["provenance"]["model_revision"], revision(config)
    if recorded != found:
        changes.append(f"model {config.model}: weights were {recorded}, now {found}")
    now = surroundings(device)
    for package, version in now["versions"].items():
        if extra["versions"].get(package) != version:
            changes.append(f"{package}: was {extra['versions'].get(package)}, now {version}")
    changes += [
        f"{key}: was {extra[key]}, now {now[key]}"
        for key in ("device", "device_name", "threads")
        if extra[key] != now[key]
    ]
    return changes


def _pixel_changes(row: Mapping[str, Any], drawn: Drawn | DrawnLayout) -> list[str]:
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
