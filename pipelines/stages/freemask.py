"""FreeMask's judge (NeurIPS 2023): a segmenter trained on real data says which regions of a drawn image are
implausible, and which masks are hard and so worth more images. The arithmetic stands in `generators.region_filter`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from maskmill.data_contracts import (
    SAMPLE,
    LabelSpace,
    Uint8Array,
    config_hash,
    decode_image,
    decode_mask,
    foreground_ids,
    iter_rows,
    list_shards,
    read_bytes,
    write_bytes,
)
from maskmill.data_contracts.shards import read_footer
from maskmill.data_contracts.texts import parse_json
from maskmill.generators.region_filter import (
    Float,
    class_mean_losses,
    filter_regions,
    hardness,
    images_per_mask,
    pixel_losses,
)
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.stages.from_masks import FreeMaskConfig

VERSION = 1
AT_ONCE = 8  # real images a forward pass


@dataclass(frozen=True)
class Judged:
    """What the judge says of the real pairs: mean loss by class in nats, images to draw by mask, and a hash of both."""

    means: dict[int, float]
    images: dict[str, int]
    stamp: str


class Judge:
    """A loaded segmenter that gives losses."""

    def __init__(self, config: FreeMaskConfig, space: LabelSpace) -> None:
        from maskmill.trainers.registry import load_artifact

        _same_space(config, space)
        self.config, self.predictor = config, load_artifact(config.artifact, config.device)

    def losses(self, images: list[Uint8Array], masks: list[Uint8Array]) -> list[Float]:
        """Cross-entropy of each pixel, float32 (H, W) an image; 0 where its mask is 255."""
        predicted = self.predictor.predict(images)
        return [pixel_losses(one.logits, mask) for one, mask in zip(predicted, masks, strict=True)]

    def filtered(self, image: Uint8Array, mask: Uint8Array, judged: Judged) -> Uint8Array:
        """The drawn image's mask without what is implausible."""
        (losses,) = self.losses([image], [mask])
        return filter_regions(mask, losses, judged.means, self.config.tolerance)


@lru_cache(maxsize=2)
def open_judge(config: FreeMaskConfig, space: LabelSpace) -> Judge:
    """The judge of a config, loaded once a process.

    Raises:
        ConfigError: it was trained on another label space.
    """
    return Judge(config, space)


def judged_masks(config: FreeMaskConfig, masks: str, per_mask: int, space: LabelSpace, kept_at: str) -> Judged:
    """Look at the real pairs in the folder `masks` once and keep what was found in the file `kept_at`, under a stamp of
    segmenter and pairs; found there, it is read.

    Raises:
        ConfigError: the segmenter was trained on another label space.
        FileNotFoundError: no artifact.
    """
    _same_space(config, space)
    stamp, known = _known(config, masks, space, kept_at)
    if known is None:
        known = {"stamp": stamp, **_look(config, list_shards(masks), space)}
        write_bytes(kept_at, (json.dumps(known, sort_keys=True) + "\n").encode())
    means = {int(class_id): float(mean) for class_id, mean in known["means"].items()}
    hard = {str(name): float(value) for name, value in known["hardness"].items()}
    images = images_per_mask(hard, per_mask) if config.harder else dict.fromkeys(hard, per_mask)
    own = {"stamp": stamp, "tolerance": config.tolerance, "images": images}
    return Judged(means, images, config_hash(own))


def is_judged(config: FreeMaskConfig, masks: str, space: LabelSpace, kept_at: str) -> bool:
    """Whether these pairs have been looked at by this segmenter; loads nothing."""
    return _known(config, masks, space, kept_at)[1] is not None


def _known(config: FreeMaskConfig, masks: str, space: LabelSpace, kept_at: str) -> tuple[str, dict[str, Any] | None]:
    """The stamp of segmenter and pairs, and what the file says where it carries that stamp."""
    from maskmill.trainers.engine import read_info

    info = read_info(config.artifact)
    contents = [None if (footer := read_footer(path)) is None else footer.content for path in list_shards(masks)]
    parts = {"segmenter": [info.fingerprint, info.weights], "version": VERSION, "shards": contents}
    stamp = config_hash({**parts, "space": space.fingerprint})
    try:
        known: dict[str, Any] = parse_json(read_bytes(kept_at))
    except (FileNotFoundError, ValueError):
        return stamp, None
    return stamp, known if known.get("stamp") == stamp else None


def _look(config: FreeMaskConfig, shards: list[str], space: LabelSpace) -> dict[str, Any]:
    judge = open_judge(config, space)
    masks: dict[str, Uint8Array] = {}

    def pairs() -> Iterator[tuple[Float, Uint8Array]]:
        for path in shards:
            for few in _batches(path, space):
                masks.update({name: mask for name, _, mask in few})
                losses = judge.losses([image for _, image, _ in few], [mask for _, _, mask in few])
                yield from zip(losses, [mask for _, _, mask in few], strict=True)

    means = class_mean_losses(pairs())
    hard = {name: hardness(mask, means) for name, mask in masks.items()}
    return {"means": {str(c): mean for c, mean in means.items()}, "hardness": hard}


def _batches(path: str, space: LabelSpace) -> Iterator[list[tuple[str, Uint8Array, Uint8Array]]]:
    """Id, image and mask of the rows that have a mask with foreground, a few at a time."""
    few: list[tuple[str, Uint8Array, Uint8Array]] = []
    rows: Iterator[dict[str, Any]] = iter_rows(path, SAMPLE, ["sample_id", "image", "mask"])
    for row in rows:
        name = str(row["sample_id"])
        mask = None if row["mask"] is None else decode_mask(row["mask"]["bytes"], name)
        if mask is None or not foreground_ids(mask, space):
            continue
        few.append((name, decode_image(row["image"]["bytes"], name), mask))
        if len(few) == AT_ONCE:
            yield few
            few = []
    if few:
        yield few


def _same_space(config: FreeMaskConfig, space: LabelSpace) -> None:
    from maskmill.trainers.engine import read_info

    trained = read_info(config.artifact).label_space
    if trained.fingerprint != space.fingerprint:
        raise ConfigError(
            f"filter.artifact {config.artifact}: expected a segmenter of label space {space.name}, found one of "
            f"{trained.name}; train one on the real pairs of this run's label space"
        )
