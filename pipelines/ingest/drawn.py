"""Source `drawn`: scenes of the drawn world, with known faults planted in a share of them. Needs no files but what
ships with maskmill.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from maskmill.curation import faults
from maskmill.curation.faults import Fault
from maskmill.data_contracts import LabelSpace, Uint8Array, config_hash, encode_image, sample_seed
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, find_classes
from maskmill.starter.drawn import CLASS_IDS, SceneConfig, render_scene


class DrawnSource(Source):
    """`count` scenes; a share `faulty` of them carries one fault each, named in provenance.extra as {"fault": …}."""

    kind: Literal["drawn"] = Field(default="drawn", description="kind of the source")
    root: str = Field(default="", description="unused: scenes are drawn, not read")
    count: int = Field(default=240, ge=1, description="scenes to draw")
    scene: SceneConfig = Field(default=SceneConfig(), description="how scenes are drawn")
    faulty: float = Field(default=0.0, ge=0, le=1, description="share of the scenes that carry one planted fault")
    faults: tuple[Fault, ...] = Field(
        default=(
            Fault.SCRAMBLED_IMAGE,
            Fault.FOREIGN_MASK,
            Fault.SHIFTED_MASK,
            Fault.SWAPPED_LABEL,
            Fault.NEAR_DUPLICATE,
        ),
        description="kinds of fault, one drawn for each faulty scene",
    )

    def entries(self) -> Iterator[Entry]:
        """Scenes by number. What a scene shows depends on the config alone, so that is its stamp."""
        stamp = config_hash(self.scene)
        for index in range(self.count):
            yield Entry(key=f"scene-{index:06d}", stamp=stamp, fields={"index": index})

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        """Render one scene and plant its fault, if it is to have one. Masks hold ids of `space`, found by class
        name.
        """
        index = int(entry.fields["index"])
        fault = self._fault(index)
        scene = render_scene(self.scene, index)
        image, mask = scene.image, scene.mask
        extra: dict[str, Any] = {"scene": index, "background": scene.background, "config": config_hash(self.scene)}
        if fault is not None:
            image, mask, of = self._plant(fault, index, image, mask)
            extra |= {"fault": str(fault), **({} if of is None else {"of": of})}
        names = {i.class_name for i in (render_scene(self.scene, extra["of"]) if "of" in extra else scene).instances}
        shown = names if fault is Fault.NEAR_DUPLICATE else {i.class_name for i in scene.instances}
        return RawSample(
            image=encode_image(image),
            drawn=_translate(mask, space, entry.key),
            words=tuple(sorted(shown)),
            provenance={"prompt": scene.caption, "seed": self.scene.seed, "extra": json.dumps(extra, sort_keys=True)},
        )

    def _fault(self, index: int) -> Fault | None:
        draw = sample_seed(self.scene.seed, str(index), "fault")
        if not self.faults or draw % 10_000 >= self.faulty * 10_000:
            return None
        return self.faults[draw // 10_000 % len(self.faults)]

    def _plant(
        self, fault: Fault, index: int, image: Uint8Array, mask: Uint8Array
    ) -> tuple[Uint8Array, Uint8Array, int | None]:
        """Spoiled image and mask, and the number of the scene that lent its mask or is repeated."""
        seed = sample_seed(self.scene.seed, str(index), "plant")
        if fault is Fault.SCRAMBLED_IMAGE:
            return faults.scramble_tiles(image, seed), mask, None
        if fault is Fault.NOISE_IMAGE:
            return faults.noise_like(image, seed), mask, None
        if fault is Fault.BLURRED_IMAGE:
            return faults.blur_heavily(image), mask, None
        if fault is Fault.SHIFTED_MASK:
            return image, faults.shift_mask(mask, seed), None
        if fault is Fault.SWAPPED_LABEL:
            present = sorted({int(i) for i in set(mask.ravel().tolist()) - {0, 255}})
            return image, faults.swap_labels(mask, present, list(range(1, 21)), seed), None
        other = self._other(index)
        scene = render_scene(self.scene, other)
        if fault is Fault.FOREIGN_MASK:
            return image, scene.mask, other
        return faults.nearly_repeat(scene.image, seed), scene.mask, other

    def _other(self, index: int) -> int:
        """A sound scene other than this one, near it in number."""
        for step in range(1, self.count):
            if self._fault(other := (index + step) % self.count) is None:
                return other
        return (index + 1) % self.count


def _translate(mask: Uint8Array, space: LabelSpace, where: str) -> Uint8Array:
    """VOC ids to the ids that classes of the same names have in `space`.

    Raises:
        ContractError: the space lacks a class that the scene shows.
    """
    out = mask.copy()
    for name, voc_id in CLASS_IDS.items():
        if (mask == voc_id).any():
            out[mask == voc_id] = find_classes((name,), space, where)[0]
    return out
