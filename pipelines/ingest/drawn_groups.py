"""Source `drawn_groups`: drawn images that share one class, with other things in every image."""

import functools
import threading
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import LabelSpace, config_hash, encode_image, sample_seed
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, find_classes
from maskmill.starter.drawn import Group, SceneConfig, render_group

_drawing = threading.Lock()


class DrawnGroupsSource(Source):
    """`count` groups of `members` images. Classes of the scene take turns; a share `alone` of the groups shows the
    shared things without others beside them. `shared` is the class that the object gets; null = its own name.
    """

    kind: Literal["drawn_groups"] = Field(default="drawn_groups", description="kind of the source")
    root: str = Field(default="", description="unused: images are drawn, not read")
    count: int = Field(default=60, ge=1, description="groups to draw")
    members: int = Field(default=8, ge=1, description="images of a group")
    alone: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the groups that show the shared things without others beside them",
    )
    shared: str | None = Field(default=None, description="class that every shared object gets; null = its own name")
    scene: SceneConfig = Field(default=SceneConfig(size=128), description="how images are drawn")
    whole_groups: bool = Field(default=True, description="let a shard outgrow its size rather than cut a group")

    def entries(self) -> Iterator[Entry]:
        """Images by group and number. What they show depends on the config alone, so that is their stamp."""
        stamp = config_hash({"scene": self.scene.model_dump(mode="json"), "members": self.members, "alone": self.alone})
        for group in range(self.count):
            for number in range(self.members):
                yield Entry(f"group-{group:05d}/{number:03d}", stamp, {"group": group, "number": number})

    def group_of(self, entry: Entry) -> str | None:
        """The group's number."""
        return f"group-{entry.fields['group']:05d}"

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        """Draw the group of an entry, or take it from the last ones drawn."""
        index = int(entry.fields["group"])
        with _drawing:  # members of a group are asked for by several threads at once
            group = _draw(self.scene, self.members, index, not self._is_alone(index))
        scene = group.scenes[entry.fields["number"]]
        name = self.shared or group.class_name
        target = find_classes((name,), space, entry.key)[0]
        provenance: dict[str, Any] = {"prompt": scene.caption, "seed": self.scene.seed}
        return RawSample(
            image=encode_image(scene.image),
            drawn=np.where(scene.mask == 0, space.background_id or 0, target).astype(np.uint8),
            words=(name,),
            group=self.group_of(entry),
            index=int(entry.fields["number"]),
            provenance=provenance,
        )

    def _is_alone(self, index: int) -> bool:
        return sample_seed(self.scene.seed, str(index), "alone") % 10_000 < self.alone * 10_000


@functools.lru_cache(maxsize=4)
def _draw(scene: SceneConfig, members: int, index: int, distractors: bool) -> Group:
    class_name = scene.classes[index % len(scene.classes)]
    return render_group(scene, class_name, members, index, distractors)
