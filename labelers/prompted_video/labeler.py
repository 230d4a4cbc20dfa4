"""Labeler `prompted_video`: follows the objects of a first frame through a clip, by a promptable model with a memory.

A clip is all items of one group, in order of their index; its prompts are those of the first item that has any. What
`promptable` says of boxes, points and strokes holds here, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel, by_clip
from maskmill.labelers.promptable.masks import Answer, compose
from maskmill.labelers.promptable.prompts import Prompt, item_prompts
from maskmill.labelers.prompted_video.config import Config
from maskmill.labelers.prompted_video.sessions import Session, VideoModel, load_video_model, restore
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import model_folder

NOTHING = "expected a box, a point or a stroke of a class in a frame of the clip, found none"


@dataclass(frozen=True)
class PromptedVideo(Labeler):
    """The engine. A frame's label depends on its clip up to that frame, and on nothing else."""

    config: Config
    space: LabelSpace
    video: VideoModel

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Masks with instances in the order of their prompts; abstains from frames before the first prompt."""
        found: dict[int, PseudoLabel] = {}
        for positions in by_clip(items):
            clip = [items[p] for p in positions]
            found.update(zip(positions, self._label_clip(clip), strict=True))
        return [found[position] for position in range(len(items))]

    def _label_clip(self, clip: Sequence[LabelItem]) -> list[PseudoLabel]:
        options: dict[str, Any] = {"objects": self.config.objects, "stroke_points": self.config.stroke_points}
        asked = [item_prompts(item, self.space, **options) for item in clip]
        start = next((number for number, prompts in enumerate(asked) if prompts), None)
        if start is None:
            return [PseudoLabel.abstain(Reason.NO_CLASSES, NOTHING)] * len(clip)
        item, prompts = clip[start], asked[start]
        before = PseudoLabel.abstain(Reason.NO_CLASSES, "before the first frame that has a prompt")
        session = self.video.start(prompts, (item.image.shape[0], item.image.shape[1]))
        return [before] * start + [self._frame(session, prompts, item) for item in clip[start:]]

    def _frame(self, session: Session, prompts: Sequence[Prompt], item: LabelItem) -> PseudoLabel:
        size = (item.image.shape[0], item.image.shape[1])
        logits, scores = session.step(self.video.pixels(item.image))
        answers = [
            Answer(prompt.class_id, one, score, restore=partial(restore, size=size))
            for prompt, one, score in zip(prompts, logits, scores, strict=True)
            if score >= self.config.min_score
        ]
        background = IGNORE if self.space.background_id is None else self.space.background_id
        drawn = compose(answers, size, background)
        shown = len(drawn.instances)
        if not shown or shown < self.config.min_found * len(prompts):
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, f"{shown} of {len(prompts)} objects found")
        return PseudoLabel(drawn.mask, drawn.confidence, instances=drawn.instances)


def load(config: Config, space: LabelSpace) -> PromptedVideo:
    """Load the model; on a GPU where there is one.

    Raises:
        FileNotFoundError: no such model. ModelError: one of another kind, or with weights that do not fit.
    """
    video = load_video_model(model_folder(config.model), pick_device(), config.precision)
    return PromptedVideo(config, space, video)
