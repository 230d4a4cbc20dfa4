"""Whether a named drawing was drawn: prompts in the words of the training captions, and likeness to renders."""

import numpy as np

from benchmarks.named_drawings import asked, likeness
from maskmill.starter.drawn.drawings import load_drawings
from maskmill.starter.drawn.scenes import render_scene
from maskmill.starter.generator_training.world import VARIED, scene_config


def test_every_drawing_is_asked_for_once_from_each_side() -> None:
    found = asked(3)
    keys = {(one.drawings[one.place].style, one.request.class_ids, one.place, one.mirrored) for one in found}
    assert len(keys) == len(found)
    prompts = [one.request.prompt for one in found]
    assert sum(prompt.startswith("a drawing of a mirrored speedboat, ") for prompt in prompts) == 1
    assert all(one.request.scene and f", {one.request.scene}; " in one.request.prompt for one in found)
    assert asked(3)[7].request == found[7].request != asked(4)[7].request


def test_renders_are_most_like_the_drawing_that_they_show() -> None:
    right = []
    for index in range(1, 61, 2):
        scene = render_scene(scene_config(index, VARIED), index)
        one = scene.instances[0]
        drawings = load_drawings((one.style,)).by_class[one.class_name][one.style][: VARIED.drawings]
        if len(scene.instances) == 1:
            best = max(
                (likeness(scene.image, one.mask, drawing, side), place)
                for place, drawing in enumerate(drawings)
                for side in (False, True)
            )
            right.append(drawings[best[1]].name == one.emoji)
    assert len(right) > 10
    assert all(right)
    assert likeness(scene.image, np.zeros((64, 64), bool), drawings[0], mirrored=False) == 0
