"""Co-saliency groups: scenes that share one class, with other things in every image."""

from dataclasses import dataclass

from maskmill.starter.drawn.drawings import CLASS_IDS, DRAWN_CLASSES
from maskmill.starter.drawn.scenes import Scene, SceneConfig, compose, scene_rng
from maskmill.starter.drawn.textures import Rng


@dataclass(frozen=True, eq=False)
class Group:
    """Scenes whose masks mark the shared class alone; everything else in them is background."""

    class_id: int
    class_name: str
    scenes: tuple[Scene, ...]


def _others(rng: Rng, config: SceneConfig, shared: str, count: int) -> list[list[str | None]]:
    """Other classes for each of `count` images: dealt from one shuffled pack, so that none is in every image.

    A pack of fewer than 4 classes is padded with things outside VOC.
    """
    pack: list[str | None] = [name for name in config.classes if name != shared]
    pack += [None] * max(0, 4 - len(pack))
    pack = [pack[i] for i in rng.permutation(len(pack))]
    dealt = []
    for image in range(count):
        hand: list[str | None] = [pack[(2 * image) % len(pack)]]
        if rng.random() < 0.5:
            hand.append(pack[(2 * image + 1) % len(pack)])
        dealt.append(hand)
    return dealt


def render_group(config: SceneConfig, class_name: str, count: int, index: int = 0, distractors: bool = True) -> Group:
    """Draw `count` images that share `class_name`; with `distractors`, one or two other classes in every image.

    The other classes differ from image to image: only the shared class is in all of them. Group `index` depends on
    (config, class, count, index) only.

    Raises:
        ValueError: a class without drawings, or no image.
    """
    if class_name not in DRAWN_CLASSES or count < 1:
        known = ", ".join(DRAWN_CLASSES)
        raise ValueError(f"group: expected one of {known} and count >= 1; found {class_name!r}, {count}")
    rng = scene_rng(config, index, f"group/{class_name}/{count}")
    hands = _others(rng, config, class_name, count) if distractors else [[] for _ in range(count)]
    scenes = []
    for image, hand in enumerate(hands):
        wanted = [class_name] * (2 if rng.random() < config.repeat_class else 1)
        image_rng = scene_rng(config, index, f"group/{class_name}/{count}/{image}")
        single = config.model_copy(update={"min_objects": 1})
        scenes.append(compose(single, image, image_rng, wanted, hand))
    return Group(CLASS_IDS[class_name], class_name, tuple(scenes))
