"""OWLv2: M. Minderer et al., "Scaling Open-Vocabulary Object Detection", NeurIPS 2023."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from maskmill.labelers.detect.families.base import Family, Size, Text, corners, in_steps


class Owlv2(Family):
    """A text a name; the photo in the upper left of a grey square."""

    model_class: ClassVar[str] = "Owlv2ForObjectDetection"
    processor_class: ClassVar[str] = "Owlv2ImageProcessor"
    tokenizer_class: ClassVar[str] = "CLIPTokenizer"
    threshold: ClassVar[float] = 0.2
    template: ClassVar[str] = "a photo of a {}"
    words: ClassVar[int] = 64
    same_boxes: ClassVar[bool] = True

    def texts(self, names: Sequence[str], most: int) -> list[tuple[range, Text]]:
        room = int(self.model.config.text_config.max_position_embeddings)
        options = {"padding": "max_length", "truncation": True, "max_length": room, "return_tensors": "pt"}
        steps = in_steps(len(names), most)
        coded = [self.tokenizer([names[i] for i in step], **options) for step in steps]
        return [
            (step, Text({"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]}))
            for step, one in zip(steps, coded, strict=True)
        ]

    def read(self, found: Any, text: Text) -> tuple[Tensor, Tensor]:
        return corners(found.pred_boxes.float()), found.logits.float().sigmoid()

    def extent(self, size: Size) -> tuple[float, float]:
        return float(max(size)), float(max(size))
