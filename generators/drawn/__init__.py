"""The drawn world: scenes, groups and clips of other people's drawings on procedural backgrounds, with numpy alone."""

from generators.drawn.backgrounds import BACKGROUND_WORDS, render_background
from generators.drawn.clips import Clip, render_clip
from generators.drawn.drawings import (
    ALL_STYLES,
    CLASS_IDS,
    DRAWN_CLASSES,
    KNOWN_STYLES,
    UNSEEN_STYLES,
    VOC_CLASSES,
    Drawing,
    Drawings,
    load_drawings,
)
from generators.drawn.groups import Group, render_group
from generators.drawn.scenes import IGNORE, Instance, Scene, SceneConfig, instance_boxes, render_batch, render_scene

__all__ = [
    "ALL_STYLES",
    "BACKGROUND_WORDS",
    "CLASS_IDS",
    "DRAWN_CLASSES",
    "IGNORE",
    "KNOWN_STYLES",
    "UNSEEN_STYLES",
    "VOC_CLASSES",
    "Clip",
    "Drawing",
    "Drawings",
    "Group",
    "Instance",
    "Scene",
    "SceneConfig",
    "instance_boxes",
    "load_drawings",
    "render_background",
    "render_batch",
    "render_clip",
    "render_group",
    "render_scene",
]
