"""Scenes of the drawn world in files, for what is taught on them without knowing how they are drawn.

    python -m maskmill.starter.drawn.store --out DIR   # one file a known style and size; --styles DIR: more styles

Arrays: `images` uint8 (n, S, S, 3); `masks` uint8 (n, S, S), VOC ids, 0 background; `backgrounds` (n,) words.
Styles are the known ones and those of `--styles`: the unseen style is for tests and has no flag here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskmill.starter.drawn.drawings import DRAWN_CLASSES, KNOWN_STYLES, add_styles, load_drawings
from maskmill.starter.drawn.scenes import SceneConfig, render_scene

#: Objects a scene, in turn: two scenes in four show one thing.
OBJECTS = (1, 2, 1, 3)
#: Scenes of each size in pixels.
COUNTS = {64: 300, 128: 200, 160: 500}


def store_scenes(
    file: Path, size: int, count: int, seed: int = 0, styles: tuple[str, ...] = KNOWN_STYLES, first: int = 0
) -> None:
    """Render scenes `first` to `first + count - 1` of `size` pixels and write them; an existing file stays as it is."""
    if file.is_file():
        return
    scenes = []
    able = load_drawings(styles).by_class
    classes = tuple(name for name in DRAWN_CLASSES if name in able)
    for index in range(first, first + count):
        most = OBJECTS[index % len(OBJECTS)]
        config = SceneConfig(size=size, styles=styles, classes=classes, max_objects=most, max_length=0.95, seed=seed)
        scenes.append(render_scene(config, index))
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".tmp.npz")
    np.savez(
        scratch,
        images=np.stack([scene.image for scene in scenes]),
        masks=np.stack([scene.mask for scene in scenes]),
        backgrounds=np.array([scene.background for scene in scenes]),
    )
    scratch.replace(file)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m maskmill.starter.drawn.store", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for one file a style and size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--styles", type=Path, help="folder of further drawings, by python -m maskmill.starter.drawn.build"
    )
    given = parser.parse_args(argv)
    further = () if given.styles is None else add_styles(given.styles)
    for style in (*KNOWN_STYLES, *further):
        for size, count in COUNTS.items():
            store_scenes(given.out / f"{style}-{size}.npz", size, count, given.seed, (style,))


if __name__ == "__main__":
    main()
