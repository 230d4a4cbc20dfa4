"""The drawn world: scenes, groups and clips of other people's drawings on procedural backgrounds, with numpy alone."""

from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS, render_background
from maskmill.starter.drawn.clips import Clip, render_clip
from maskmill.starter.drawn.drawings import (
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
from maskmill.starter.drawn.groups import Group, render_group
from maskmill.starter.drawn.scenes import (
    IGNORE,
    Instance,
    Scene,
    SceneConfig,
    instance_boxes,
    render_batch,
    render_scene,
)

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
