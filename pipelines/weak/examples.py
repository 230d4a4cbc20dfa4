"""Small sets to try every kind of weak label on: drawn scenes with their truth, and phantoms of scans.

Everything is drawn from what ships with maskmill, from a fixed seed: the same files on every machine with the same
numpy and Pillow.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import (
    LabelSpace,
    Uint8Array,
    encode_image,
    encode_mask,
    load_label_space,
    sample_seed,
    write_bytes,
)
from maskmill.starter.drawn import Clip, SceneConfig, render_clip, render_group, render_scene
from maskmill.vision.scribbles import simulate_scribble

CLASSES = ("cat", "dog", "horse")
NEW_CLASS = "bird"  # the class of the few labelled images
GROUPS = ("bicycle", "bus", "sheep")
PHOTOS, SCRIBBLED, SHOTS, MEMBERS, CLIPS, FRAMES, PATIENTS, SLICES = 24, 12, 2, 6, 6, 8, 6, 6
SIDE, SCAN = 128, 96  # pixels
SPACE = LabelSpace.from_names(list(CLASSES))

Files = Iterator[tuple[str, bytes]]  # path under the folder, content


def photos() -> Files:
    """images/ and masks/, and the same known in weaker ways: tags.json, boxes.csv, and for the first half strokes/ (of
    classes) and object-strokes/ (of objects and background, coded as `sduts`).
    """
    config = SceneConfig(size=SIDE, classes=CLASSES, min_objects=1, max_objects=2, max_distractors=1)
    tags: dict[str, list[str]] = {}
    boxes: list[tuple[object, ...]] = [("file", "class", "x0", "y0", "x1", "y1")]
    for number in range(PHOTOS):
        scene, name = render_scene(config, number), f"{number:02d}"
        mask = in_space(scene.mask, SPACE)
        yield f"images/{name}.png", encode_image(scene.image)
        yield f"masks/{name}.png", encode_mask(mask, SPACE.palette)
        if number < SCRIBBLED:
            strokes = simulate_scribble(mask, name)
            yield f"strokes/{name}.png", encode_mask(strokes, SPACE.palette)
            coded = np.select([strokes == 255, strokes == 0], [0, 2], 1).astype(np.uint8)
            yield f"object-strokes/{name}.png", encode_mask(coded)
        tags[f"{name}.png"] = sorted({one.class_name for one in scene.instances})
        boxes += [(f"{name}.png", one.class_name, *one.box) for one in scene.instances]
    yield "tags.json", _json(tags)
    yield "boxes.csv", _csv(boxes)


def few_shot() -> Files:
    """few-shot/examples/ with a mask of the class, few-shot/images/ without."""
    config = SceneConfig(size=SIDE, classes=(NEW_CLASS,), max_objects=1, seed=1)
    for number in range(SHOTS + MEMBERS):
        scene, name = render_scene(config, number), f"{number:02d}"
        if number >= SHOTS:
            yield f"few-shot/images/{name}.png", encode_image(scene.image)
            continue
        yield f"few-shot/examples/images/{name}.png", encode_image(scene.image)
        yield f"few-shot/examples/masks/{name}.png", encode_mask((scene.mask > 0).astype(np.uint8))


def groups() -> Files:
    """groups/NAME/: photos that share one thing, with other things beside it."""
    for name in GROUPS:
        drawn = render_group(SceneConfig(size=SIDE, seed=2), name, MEMBERS)
        for number, scene in enumerate(drawn.scenes):
            yield f"groups/{name}/{number:02d}.png", encode_image(scene.image)


def clips() -> Files:
    """clips/images/ and clips/masks/ to learn from (an id an object), clip/ to follow, with the boxes of its first
    frame in clip_boxes.json.
    """
    space, config = load_label_space("objects"), SceneConfig(size=SIDE, seed=3)
    for index in range(CLIPS):
        clip = render_clip(config, index, FRAMES)
        for number in range(FRAMES):
            place = f"clip-{index}/{number:03d}.png"
            yield f"clips/images/{place}", encode_image(clip.frames[number])
            yield f"clips/masks/{place}", encode_mask(clip.instance_masks[number], space.palette)
    followed = render_clip(config, CLIPS, FRAMES)
    yield from ((f"clip/{number:03d}.png", encode_image(frame)) for number, frame in enumerate(followed.frames))
    yield "clip_boxes.json", _json(_first_boxes(followed))


def scans() -> Files:
    """scans/images/ and scans/masks/: slices of scans, a wall (2) around a chamber (1) in noise; a patient a group."""
    palette = load_label_space("voc").palette
    for patient in range(PATIENTS):
        rng = np.random.default_rng(sample_seed(4, str(patient), "scan"))
        body = rng.uniform(0.8, 1.2, 4)
        for index in range(SLICES):
            image, mask = _slice(rng, body, (index + 1) / (SLICES + 1))
            name = f"patient{patient:02d}_frame01_slice_{index}.png"
            yield f"scans/images/{name}", encode_image(np.repeat(image[..., None], 3, axis=2))
            yield f"scans/masks/{name}", encode_mask(mask, palette)


SETS: dict[str, Callable[[], Files]] = {
    "photos": photos,
    "few-shot": few_shot,
    "groups": groups,
    "clips": clips,
    "scans": scans,
}


def write_examples(folder: Path) -> dict[str, int]:
    """Write every set under `folder`; returns how many files each has.

    Raises:
        FileExistsError: something lies in `folder` already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected no such folder, or an empty one, found files; name another folder")
    return {name: _write(folder, files()) for name, files in SETS.items()}


def _write(folder: Path, files: Files) -> int:
    count = 0
    for path, data in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(str(folder / path), data)
        count += 1
    return count


def in_space(mask: Uint8Array, space: LabelSpace) -> Uint8Array:
    """A scene's mask of VOC ids in the ids that `space` has for the same names."""
    voc, out = load_label_space("voc"), np.zeros_like(mask)
    for entry in space.classes:
        out[mask == voc.find(entry.name).id] = entry.id
    out[mask == 255] = 255
    return out


def _first_boxes(clip: Clip) -> list[dict[str, object]]:
    voc = load_label_space("voc")
    named = zip(clip.class_ids, clip.first_boxes.tolist(), strict=True)
    return [{"name": voc.by_id[class_id].name, "box": box} for class_id, box in named]


def _slice(rng: np.random.Generator, body: NDArray[np.float64], height: float) -> tuple[Uint8Array, Uint8Array]:
    """Grey uint8 and mask uint8, both (SCAN, SCAN): how wide the heart is at `height` in 0..1 of the patient's body."""
    width = np.sin(np.pi * height) * 0.28 * SCAN
    centre = SCAN / 2 + (body[:2] - 1) * SCAN / 4
    y, x = np.mgrid[:SCAN, :SCAN]
    reach = np.hypot((x - centre[0]) / body[2], (y - centre[1]) / body[3])
    mask = np.where(reach < 0.6 * width, 1, np.where(reach < width, 2, 0)).astype(np.uint8)
    tones = np.array([70.0, 190.0, 110.0])[mask] + 12 * rng.standard_normal(mask.shape)
    rough = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), 6) * 120
    return np.clip(cv2.GaussianBlur(tones + rough, (0, 0), 0.8), 0, 255).astype(np.uint8), mask


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _csv(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
