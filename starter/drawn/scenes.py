"""Scenes of the drawn world: one to three drawings of VOC classes on a named background, with exact masks.

    from maskmill.starter.drawn import SceneConfig, render_scene scene = render_scene(SceneConfig(size=128,
    max_distractors=2), 7)

Scene i depends on (config, config.seed, i) only: never on batch, order or worker.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts.ids import sample_seed
from maskmill.generators.words import class_words, counted
from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS, render_background
from maskmill.starter.drawn.compositing import Canvas, Patch, Pose, colour_jitter, recolour, resample
from maskmill.starter.drawn.drawings import (
    CLASS_IDS,
    DRAWN_CLASSES,
    KNOWN_STYLES,
    VOC,
    Drawing,
    Drawings,
    known_styles,
    load_drawings,
)
from maskmill.starter.drawn.textures import Rng

IGNORE = 255
ATTEMPTS = 12
CLASS_WORDS = class_words(VOC)
Laid = tuple[Drawing, bool, bool]  # what was laid on the canvas: whether it is an object, and mirrored
# Things that come in any colour: their hue may turn, so that one or two drawings a style do not become one colour.
RECOLOURED = frozenset({"bicycle", "bottle", "bus", "car", "chair", "motorbike", "sofa", "boat", "train", "aeroplane"})


class SceneConfig(BaseModel):
    """How scenes are drawn. Lengths are shares of `size`; angles are degrees; the defaults give the known styles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=64, ge=24, le=1024, description="height and width in pixels")
    styles: tuple[str, ...] = Field(default=KNOWN_STYLES, description="styles of drawing")
    classes: tuple[str, ...] = Field(default=DRAWN_CLASSES, description="names of the classes to draw")
    backgrounds: tuple[str, ...] = Field(default=BACKGROUND_WORDS, description="names of the backgrounds")
    max_drawings: int | None = Field(
        default=None, ge=1, description="of a class in a style: the first ones, which are the most typical; none = all"
    )
    min_objects: int = Field(default=1, ge=1, le=8, description="least number of objects in a scene")
    max_objects: int = Field(default=3, ge=1, le=8, description="greatest number of objects in a scene")
    min_distractors: int = Field(default=0, ge=0, le=8, description="drawings of other things; background in the mask")
    max_distractors: int = Field(
        default=0, ge=0, le=8, description="greatest number of drawings of other things; background in the mask"
    )
    min_length: float = Field(default=0.38, gt=0, le=2, description="longer side of a lone object")
    max_length: float = Field(default=0.82, gt=0, le=2, description="longer side of the largest object")
    turn: float = Field(default=12.0, ge=0, le=180, description="greatest turn of an object to either side, in degrees")
    roam: float = Field(
        default=1.0, ge=0, le=1, description="how far from the middle an object may lie: 0 in the middle"
    )
    mirror: float = Field(default=0.5, ge=0, le=1, description="share of objects that are mirrored")
    colour_jitter: float = Field(
        default=0.15, ge=0, lt=1, description="brightness, contrast and saturation vary by this share, ±"
    )
    hue_jitter: float = Field(default=60.0, ge=0, le=180, description="only for things that come in any colour")
    shadow: float = Field(default=0.5, ge=0, le=1, description="share of objects that cast a shadow")
    repeat_class: float = Field(default=0.2, ge=0, le=1, description="chance that an object repeats a class")
    min_visible: float = Field(default=0.55, gt=0, le=1, description="share of an object that no other may hide")
    min_area: float = Field(default=0.012, ge=0, lt=1, description="visible share of the image, per object")
    noise: float = Field(default=2.0, ge=0, le=64, description="sensor noise in grey levels")
    ignore_band: bool = Field(default=False, description="mark half-transparent object borders as 255")
    caption: str = Field(
        default="a photo of {objects}, {background}",
        description="prompt of a scene; {objects} and {background} are filled in",
    )
    seed: int = Field(default=0, description="of all that is drawn")

    @model_validator(mode="after")
    def _check(self) -> "SceneConfig":
        for name, values, known in (
            ("styles", self.styles, known_styles()),
            ("classes", self.classes, DRAWN_CLASSES),
            ("backgrounds", self.backgrounds, BACKGROUND_WORDS),
        ):
            if not values or set(values) - set(known) or len(set(values)) != len(values):
                raise ValueError(f"{name}: expected different names out of {', '.join(known)}; found {values}")
        for name in ("objects", "distractors", "length"):
            if getattr(self, f"min_{name}") > getattr(self, f"max_{name}"):
                raise ValueError(f"min_{name} is above max_{name}")
        return self


@dataclass(frozen=True, eq=False)
class Instance:
    """One drawn object. `mask`: visible pixels; `full_mask`: with the parts that others hide; both bool (H, W).

    `box`: x0, y0, x1, y1 of the visible pixels, x1 and y1 exclusive; `mirrored`: left and right change places.
    """

    class_id: int
    class_name: str
    style: str
    emoji: str
    mask: NDArray[np.bool_]
    full_mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    mirrored: bool

    @property
    def visible_area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with its truth. `image` uint8 (H, W, 3); `mask` uint8 (H, W): VOC ids, 0 background, 255 ignore."""

    index: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    instances: tuple[Instance, ...]
    distractors: tuple[str, ...]
    caption: str
    prompt_class_ids: tuple[int, ...]
    background: str

    @property
    def instance_ids(self) -> NDArray[np.uint8]:
        """uint8 (H, W): 0 background, 1.. = position in `instances` plus one."""
        ids = np.zeros(self.mask.shape, np.uint8)
        for number, instance in enumerate(self.instances, start=1):
            ids[instance.mask] = number
        return ids


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Tight box x0, y0, x1, y1 (exclusive) of a mask; zeros when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def instance_boxes(scene: Scene) -> NDArray[np.int32]:
    """Weak label: one row class id, x0, y0, x1, y1 (exclusive) per instance, int32 (n, 5)."""
    rows = [(one.class_id, *one.box) for one in scene.instances]
    return np.array(rows, np.int32).reshape(-1, 5)


def scene_rng(config: SceneConfig, index: int, purpose: str = "scene") -> Rng:
    """The random stream of one scene, group or clip."""
    return np.random.default_rng(sample_seed(config.seed, str(index), f"drawn/{purpose}"))


def pick_drawing(rng: Rng, drawings: Drawings, class_name: str | None, most: int | None = None) -> Drawing:
    """A drawing of a class (None: a distractor), each style equally likely; of a class's only the first `most`."""
    table = drawings.distractors if class_name is None else drawings.by_class[class_name]
    able = [style for style in drawings.styles if style in table]
    pool = table[able[int(rng.integers(len(able)))]]
    if class_name is not None:
        pool = pool[:most]
    return pool[int(rng.integers(len(pool)))]


def drawing_colours(rng: Rng, drawing: Drawing, config: SceneConfig) -> NDArray[np.float32]:
    """The colour matrix of one object."""
    hue = config.hue_jitter if drawing.class_name in RECOLOURED else min(config.hue_jitter, 8.0)
    return colour_jitter(rng, config.colour_jitter, hue)


def _choose_classes(rng: Rng, config: SceneConfig) -> list[str]:
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    fresh = [config.classes[i] for i in rng.permutation(len(config.classes))]
    chosen = [fresh.pop(0)]
    while len(chosen) < count:
        repeat = not fresh or rng.random() < config.repeat_class
        chosen.append(chosen[int(rng.integers(len(chosen)))] if repeat else fresh.pop(0))
    return chosen


def _place(rng: Rng, canvas: Canvas, drawing: Drawing, config: SceneConfig, crowd: int) -> tuple[Patch, Pose] | None:
    """Find a pose that hides no earlier object too much; smaller with every attempt; None when there is no room."""
    size = config.size
    length = rng.uniform(config.min_length, config.max_length) * size * crowd**-0.35
    for attempt in range(ATTEMPTS):
        long_side = length * 0.92**attempt
        height, width = drawing.levels[0].shape[:2]
        half_x, half_y = (0.4 * long_side * side / max(height, width) for side in (width, height))
        x = rng.uniform(half_x, size - half_x) if 2 * half_x < size else size / 2
        y = rng.uniform(half_y, size - half_y) if 2 * half_y < size else size / 2
        x, y = (size / 2 + config.roam * (place - size / 2) for place in (x, y))
        turn = float(rng.uniform(-config.turn, config.turn))
        pose = Pose(x, y, long_side, turn, bool(rng.random() < config.mirror))
        patch = resample(drawing, pose, size, size)
        if canvas.leaves_visible(patch, config.min_visible, max(1, round(config.min_area * size * size))):
            return patch, pose
    return None


def _add(rng: Rng, canvas: Canvas, drawing: Drawing, config: SceneConfig, crowd: int) -> Pose | None:
    placed = _place(rng, canvas, drawing, config, crowd)
    colours = drawing_colours(rng, drawing, config)
    if placed is None:
        return None
    patch, pose = placed
    if rng.random() < config.shadow:
        drop = Pose(pose.x + 0.04 * pose.length, pose.y + 0.06 * pose.length, pose.length, pose.turn, pose.mirrored)
        canvas.shade(resample(drawing, drop, config.size, config.size, blur=2), rng.uniform(0.25, 0.5))
    canvas.lay(recolour(patch, colours))
    return pose


def describe(instances: Iterable[Instance], others: Iterable[str]) -> str:
    """ "a dog", "a dog and an aeroplane", "a cat, a dog and a bus": each thing once, with its article."""
    things = [CLASS_WORDS[one.class_id] for one in instances]
    things += [CLASS_WORDS[CLASS_IDS[name]] if name in CLASS_IDS else name.replace("-", " ") for name in others]
    phrases = [counted(thing) for thing in dict.fromkeys(things)]
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def compose(config: SceneConfig, index: int, rng: Rng, wanted: list[str], others: list[str | None]) -> Scene:
    """Draw objects of the `wanted` classes and distractors (`None`: a thing outside VOC; a name: another class).

    Raises:
        ValueError: the frame has no room for `config.min_objects` objects.
    """
    drawings = load_drawings(config.styles)
    background = config.backgrounds[int(rng.integers(len(config.backgrounds)))]
    backdrop = render_background(background, rng, config.size, config.size)
    tasks = [(name, True) for name in wanted] + [(name, False) for name in others]
    for _ in range(ATTEMPTS):
        canvas = Canvas(backdrop.copy())
        laid: list[Laid] = []
        for position in rng.permutation(len(tasks)):
            name, is_object = tasks[int(position)]
            drawing = pick_drawing(rng, drawings, name, config.max_drawings)
            if (pose := _add(rng, canvas, drawing, config, len(tasks))) is not None:
                laid.append((drawing, is_object, pose.mirrored))
        if sum(is_object for _, is_object, _ in laid) >= min(config.min_objects, len(wanted)):
            return _finish(config, index, rng, canvas, laid, background)
    raise ValueError(
        f"scene {index}: no room for {config.min_objects} objects; lower min_objects, min_length or min_visible"
    )


def _finish(config: SceneConfig, index: int, rng: Rng, canvas: Canvas, laid: list[Laid], background: str) -> Scene:
    lookup = np.array([0] + [drawing.class_id if is_object else 0 for drawing, is_object, _ in laid], np.uint8)
    mask = lookup[canvas.owner]
    instances = []
    for layer, (drawing, is_object, mirrored) in enumerate(laid, start=1):
        if is_object and drawing.class_name is not None:
            visible, full = canvas.owner == layer, canvas.full_mask(layer)
            names = (CLASS_IDS[drawing.class_name], drawing.class_name, drawing.style, drawing.name)
            instances.append(Instance(*names, visible, full, mask_box(visible), mirrored))
    if config.ignore_band:
        mask[canvas.edge] = IGNORE
    extras = tuple(drawing.class_name or drawing.name for drawing, is_object, _ in laid if not is_object)
    caption = config.caption.format(objects=describe(instances, extras), background=background)
    ids = tuple(sorted({one.class_id for one in instances}))
    image = canvas.pixels(rng, config.noise)
    return Scene(index, image, mask, tuple(instances), extras, caption, ids, background)


def render_scene(config: SceneConfig, index: int) -> Scene:
    """Scene number `index` of this config; the same scene whatever else is rendered."""
    rng = scene_rng(config, index)
    wanted = _choose_classes(rng, config)
    others: list[str | None] = [None] * int(rng.integers(config.min_distractors, config.max_distractors + 1))
    return compose(config, index, rng, wanted, others)


def render_batch(config: SceneConfig, indices: Iterable[int]) -> list[Scene]:
    """Scenes by number, in the order asked for."""
    return [render_scene(config, index) for index in indices]
