"""SAM 3 by class names: N. Carion et al., "SAM 3: Segment Anything with Concepts", 2025. Its boxes and presence."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from maskmill.labelers.detect.families.base import Family, Text, in_steps


class Sam3(Family):
    """One name a forward: a box's score is its own times that of the name's presence in the photo."""

    model_class: ClassVar[str] = "Sam3Model"
    processor_class: ClassVar[str] = "Sam3ImageProcessor"
    tokenizer_class: ClassVar[str] = "CLIPTokenizer"
    threshold: ClassVar[float] = 0.5
    words: ClassVar[int] = 1

    def texts(self, names: Sequence[str], most: int) -> list[tuple[range, Text]]:
        room = int(self.model.text_encoder.config.max_position_embeddings)
        options = {"padding": "max_length", "truncation": True, "max_length": room, "return_tensors": "pt"}
        steps = in_steps(len(names), 1)
        coded = [self.tokenizer([names[step[0]]], **options) for step in steps]
        return [
            (step, Text({"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]}))
            for step, one in zip(steps, coded, strict=True)
        ]

    def read(self, found: Any, text: Text) -> tuple[Tensor, Tensor]:
        scores = found.pred_logits.float().sigmoid()
        if found.presence_logits is not None:
            scores = scores * found.presence_logits.float().sigmoid()
        return found.pred_boxes.float(), scores[..., None]
