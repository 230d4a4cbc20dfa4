"""What the starter generator learns from: drawn scenes of the known styles, with the captions that prompt sets use.

OpenMoji is never drawn here: it is the unseen style of the benchmarks.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import load_label_space, sample_seed
from maskmill.generators.prompts import append_classes
from maskmill.generators.words import class_words, counted, joined
from maskmill.starter.drawn.drawings import CLASS_IDS, KNOWN_STYLES, load_drawings
from maskmill.starter.drawn.scenes import CLASS_WORDS, Scene, SceneConfig, render_scene
from maskmill.starter.generator_training.models import IMAGE_SIZE, MIRRORED, drawing_words

SEED = 20_260
# What is said of a scene names its style: a small model need not average three drawings of a class.
STYLE_WORDS = {"noto": "photo", "twemoji": "drawing", "fluent": "picture"}
STYLES = ("noto", "twemoji", "fluent", "noto", "twemoji", "noto", "fluent")  # cycled through scene by scene
BARE = 0.1  # share of captions that are the class words alone: any style


@dataclass(frozen=True)
class Manner:
    """How scenes are drawn: `objects` in a scene, cycled through scene by scene; the `drawings` of a class and style;
    `min_length`, `mirror` and `turn` as in a `SceneConfig`.
    """

    objects: tuple[int, ...]
    drawings: int
    min_length: float
    mirror: float
    turn: float


# The most typical drawing of each class and style, as it was drawn: what `starter` learnt, and `starter-mmdit` first.
TYPICAL = Manner(objects=(1, 1, 1, 1, 2), drawings=1, min_length=0.7, mirror=0.0, turn=0.0)
# Up to three drawings of each class and style, of either side, leaning and of more sizes, more often two of them; every
# other scene is as in TYPICAL. Captions name what is not the first drawing of its class as it was drawn.
VARIED = Manner(objects=(1, 1, 2, 1, 2), drawings=3, min_length=0.6, mirror=0.4, turn=8.0)


@dataclass(frozen=True)
class World:
    """`images` uint8 (N, 64, 64, 3), `masks` uint8 (N, 64, 64) of VOC ids, one caption and one class prompt each."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    captions: list[str]
    class_prompts: list[str]


def scene_config(index: int, manner: Manner = TYPICAL) -> SceneConfig:
    """Clean, large drawings near the middle: what a small model can learn to draw."""
    manner = manner if index % 2 else TYPICAL
    objects = manner.objects[index % len(manner.objects)]
    return SceneConfig(
        size=IMAGE_SIZE,
        styles=(STYLES[index % len(STYLES)],),
        min_objects=objects,
        max_objects=objects,
        max_drawings=manner.drawings,
        min_length=manner.min_length,
        max_length=0.95,
        roam=1.0 if objects > 1 else 0.5,
        mirror=manner.mirror,
        turn=manner.turn,
        colour_jitter=0.08,
        hue_jitter=0.0,
        shadow=0.0,
        noise=0.0,
        repeat_class=0.0,
        seed=SEED,
    )


def called(class_name: str, style: str, drawing: str, mirrored: bool = False) -> str:
    """What a caption calls a drawing: its class, if it is the first of that class and style as it was drawn; its own
    name, and that it is mirrored, otherwise. (The second train is called "train", and is one from the front.)
    """
    first = load_drawings((style,)).by_class[class_name][style][0]
    word, own = CLASS_WORDS[CLASS_IDS[class_name]], drawing_words(drawing)
    name = word if drawing == first.name else f"oncoming {word}" if own == word else own
    return f"{MIRRORED} {name}" if mirrored else name


def kinds_of(most: int = VARIED.drawings) -> dict[str, tuple[str, ...]]:
    """Names of the first drawings of each class that all known styles have, as `kinds` of a prompt set; the class's
    own word is the empty one.
    """
    drawn = load_drawings(KNOWN_STYLES).by_class
    found = {}
    for class_name, by_style in drawn.items():
        by = [[called(class_name, style, one.name) for one in by_style[style][:most]] for style in KNOWN_STYLES]
        common = [name for name in by[0][1:] if all(name in other for other in by[1:])]
        if common:
            found[class_name] = ("", *common)
    return found


def caption_of(scene: Scene, index: int) -> tuple[str, str]:
    """(caption with the class words appended, class words), in the words of the prompt sets."""
    words = class_words(load_label_space("voc"))
    rng = np.random.default_rng(sample_seed(SEED, str(index), "caption"))
    ids = [int(i) for i in rng.permutation(sorted({one.class_id for one in scene.instances}))]
    class_prompt = " ".join(words[i] for i in ids)
    names = Counter(
        called(one.class_name, one.style, one.emoji, one.mirrored)
        for i in ids
        for one in scene.instances
        if one.class_id == i
    )
    if rng.random() < BARE and not set(names) - set(words.values()):
        return class_prompt, class_prompt
    things = joined([counted(name, count) for name, count in names.items()])
    caption = f"a {STYLE_WORDS[scene.instances[0].style]} of {things}"
    if rng.random() < 0.8:
        caption = f"{caption}, {scene.background}"
    return append_classes(caption, class_prompt), class_prompt


def render_world(first: int, count: int, manner: Manner = TYPICAL) -> World:
    """Scenes `first` … `first + count - 1`; a scene depends on its number only."""
    scenes = [render_scene(scene_config(i, manner), i) for i in range(first, first + count)]
    texts = [caption_of(scene, i) for i, scene in enumerate(scenes, start=first)]
    return World(
        np.stack([s.image for s in scenes]),
        np.stack([s.mask for s in scenes]),
        [caption for caption, _ in texts],
        [words for _, words in texts],
    )


def load_world(folder: Path, count: int, manner: Manner = TYPICAL, part: int = 2000) -> World:
    """The first `count` scenes of a manner, rendered once and kept in `folder` in parts of `part` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, count, part):
        path = folder / f"scenes-{first:06d}.npz"
        if not path.exists():
            world = render_world(first, part, manner)
            texts = np.array([world.captions, world.class_prompts])
            temporary = path.with_suffix(".part.npz")
            np.savez(temporary, images=world.images, masks=world.masks, texts=texts)
            temporary.rename(path)
        with np.load(path) as data:
            parts.append(
                (data["images"], data["masks"], [str(t) for t in data["texts"][0]], [str(t) for t in data["texts"][1]])
            )
    return World(
        np.concatenate([p[0] for p in parts])[:count],
        np.concatenate([p[1] for p in parts])[:count],
        [t for p in parts for t in p[2]][:count],
        [t for p in parts for t in p[3]][:count],
    )
