"""SAM 3 asked by words: every instance of a concept in a photo, with its mask.

Source: N. Carion et al., "SAM 3: Segment Anything with Concepts", 2025. A score is an instance's own times that of the
concept's presence in the photo.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.vision.batches import thickened
from maskmill.vision.pretrained import Precision, check_family, load_model, load_part

FAMILIES = ("sam3", "sam3_video")  # the second is what the folder of SAM 3 names
MODEL, PROCESSOR, TOKENIZER = "Sam3Model", "Sam3ImageProcessor", "CLIPTokenizer"
MOST_THIN = 16  # times that one side may be longer than the other


def word_inputs(model: Any, tokenizer: Any, words: str) -> dict[str, Tensor]:
    """A concept's words as the model's forward takes them."""
    room = int(model.text_encoder.config.max_position_embeddings)
    coded = tokenizer([words], padding="max_length", truncation=True, max_length=room, return_tensors="pt")
    return {"input_ids": coded["input_ids"], "attention_mask": coded["attention_mask"]}


def concept_scores(found: Any) -> Tensor:
    """Scores float32 (B, Q) of a forward's instances, 0 to 1."""
    scores: Tensor = found.pred_logits.float().sigmoid()
    return scores if found.presence_logits is None else scores * found.presence_logits.float().sigmoid()


@dataclass(frozen=True, eq=False)
class Seen:
    """An instance: which of the words it is one of, its score, and its mask's probabilities (h, w) on a small grid."""

    word: int
    score: float
    shares: Tensor
    shown: tuple[int, int]  # size of what the model saw
    size: tuple[int, int]  # of the photo

    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W) at the photo's size, as the library enlarges it."""
        whole = F.interpolate(self.shares[None, None], self.shown, mode="bilinear", align_corners=False)[0, 0]
        found: NDArray[np.bool_] = (whole[: self.size[0], : self.size[1]] > 0.5).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False)
class Concepts:
    """A loaded SAM 3 with its processor and tokenizer."""

    model: Any
    processor: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, device: object, precision: Precision) -> Self:
        """The model with the folder's weights, on a device.

        Raises:
            ModelError: another model than SAM 3, or weights that do not fit.
        """
        check_family(folder, FAMILIES, "masks from words")
        model = load_model(MODEL, folder, device, precision)
        return cls(model, load_part(PROCESSOR, folder), load_part(TOKENIZER, folder))

    def find(self, image: Uint8Array, words: Sequence[str], least: float) -> Iterator[Seen]:
        """Instances of each of the words in a photo uint8 (H, W, 3) with a score above `least`. The photo is embedded
        once, alone.
        """
        thick = thickened(image, MOST_THIN)
        given = self.processor(images=np.array(thick), return_tensors="pt", input_data_format="channels_last")
        device = self.model.device
        with torch.inference_mode():
            embedded = self.model.get_vision_features(given["pixel_values"].to(device, self.model.dtype))
            for number, word in enumerate(words):
                asked = {k: v.to(device) for k, v in word_inputs(self.model, self.tokenizer, word).items()}
                found = self.model(vision_embeds=embedded, **asked)
                for score, logits in zip(concept_scores(found)[0].tolist(), found.pred_masks[0], strict=True):
                    if score > least:
                        yield Seen(number, score, logits.float().sigmoid(), thick.shape[:2], image.shape[:2])
