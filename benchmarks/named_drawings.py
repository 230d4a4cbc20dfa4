"""Does a starter generator draw the drawing that a caption names, and the side?

Of each class and known style the first three drawings are asked for by name, as they are and mirrored. A drawing counts
as the one that was meant if, of its class's three and of both sides of each, it is most like the object that the judge
sees (`likeness`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.judge import iou, verdicts
from maskmill.data_contracts import Uint8Array, sample_seed
from maskmill.generators.config import GeneratorConfig
from maskmill.generators.prompts import append_classes
from maskmill.generators.requests import Request
from maskmill.generators.text_to_image import TextToImage
from maskmill.generators.words import counted
from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS
from maskmill.starter.drawn.drawings import CLASS_IDS, KNOWN_STYLES, Drawing, load_drawings
from maskmill.starter.drawn.scenes import CLASS_WORDS, mask_box
from maskmill.starter.generator_training.world import STYLE_WORDS, VARIED, called

SIDE = 24  # of the squares that are compared


@dataclass(frozen=True)
class Asked:
    """One prompt, the drawings that it may be answered with, and which of them it names."""

    request: Request
    drawings: tuple[Drawing, ...]
    place: int
    mirrored: bool


def asked(seed: int) -> list[Asked]:
    """One prompt for each class, style, drawing and side."""
    return list(_asked(seed))


def _asked(seed: int) -> Iterator[Asked]:
    for class_name, by_style in load_drawings(KNOWN_STYLES).by_class.items():
        word, class_id = CLASS_WORDS[CLASS_IDS[class_name]], CLASS_IDS[class_name]
        for style in KNOWN_STYLES:
            drawings = by_style[style][: VARIED.drawings]
            for place, drawing in enumerate(drawings):
                for mirrored in (False, True):
                    noise = sample_seed(seed, f"{class_name}|{style}|{place}|{mirrored}", "noise")
                    scene = BACKGROUND_WORDS[noise % len(BACKGROUND_WORDS)]
                    name = counted(called(class_name, style, drawing.name, mirrored))
                    prompt = append_classes(f"a {STYLE_WORDS[style]} of {name}, {scene}", word)
                    request = Request(prompt, (word,), (class_id,), noise, scene=scene)
                    yield Asked(request, drawings, place, mirrored)


def likeness(image: Uint8Array, seen: NDArray[np.bool_], drawing: Drawing, mirrored: bool) -> float:
    """How like the object `seen` in an image (H, W, 3) is to a drawing: 1 less the mean difference of colours over the
    squares that hold each, grey where neither is.
    """
    if not seen.any():
        return 0.0
    x0, y0, x1, y1 = mask_box(seen)
    shown = np.where(seen[..., None], image, 128).astype(np.float32)[y0:y1, x0:x1]
    rgba = drawing.levels[0].astype(np.float32)
    own = rgba[..., :3] + 128 * (1 - rgba[..., 3:] / 255)
    x0, y0, x1, y1 = mask_box(rgba[..., 3] > 127)
    own = own[y0:y1, x0:x1]
    own = own[:, ::-1] if mirrored else own
    a, b = (cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in (shown, own))
    return 1 - float(np.abs(a - b).mean()) / 255


def named_metrics(judge: Any, config: GeneratorConfig, seed: int) -> dict[str, float]:
    """Class agreement and mask IoU (median) over named drawings, and the shares of images in which the drawing, and the
    side, is the one that was meant (classes with a single drawing count for the side alone).
    """
    wanted = asked(seed)
    drawn = TextToImage(config).draw([one.request for one in wanted])
    seen, objects = verdicts(judge, np.stack([d.image for d in drawn]))
    classes = [one.request.class_ids[0] for one in wanted]
    which, sides = [], []
    for one, picture, where in zip(wanted, drawn, objects, strict=True):
        scores = [
            (likeness(picture.image, where, drawing, mirrored), place, mirrored)
            for place, drawing in enumerate(one.drawings)
            for mirrored in (False, True)
        ]
        _, place, mirrored = max(scores)
        sides.append(mirrored == one.mirrored)
        if len(one.drawings) > 1:
            which.append(place == one.place)
    ious = [iou(d.mask, o, [c]) for d, o, c in zip(drawn, objects, classes, strict=True)]
    return {
        "class_agreement": float(np.mean(seen == np.array(classes))),
        "mask_iou_median": float(np.median(ious)),
        "drawing_agreement": float(np.mean(which)),
        "side_agreement": float(np.mean(sides)),
    }
