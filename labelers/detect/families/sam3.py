"""SAM 3 by class names: N. Carion et al., "SAM 3: Segment Anything with Concepts", 2025. Its boxes and presence."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from maskmill.labelers.detect.families.base import Family, Text, in_steps
from maskmill.vision.concepts import MODEL, PROCESSOR, TOKENIZER, concept_scores, word_inputs


class Sam3(Family):
    """One name a forward: a box's score is its own times that of the name's presence in the photo."""

    model_class: ClassVar[str] = MODEL
    processor_class: ClassVar[str] = PROCESSOR
    tokenizer_class: ClassVar[str] = TOKENIZER
    threshold: ClassVar[float] = 0.5
    words: ClassVar[int] = 1

    def texts(self, names: Sequence[str], most: int) -> list[tuple[range, Text]]:
        steps = in_steps(len(names), 1)
        return [(step, Text(word_inputs(self.model, self.tokenizer, names[step[0]]))) for step in steps]

    def read(self, found: Any, text: Text) -> tuple[Tensor, Tensor]:
        return found.pred_boxes.float(), concept_scores(found)[..., None]
