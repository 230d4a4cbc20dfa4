"""Grounding DINO: S. Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training", ECCV 2024."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from maskmill.labelers.detect.families.base import Family, Text, corners, too_long


class GroundingDino(Family):
    """All names in one text, "cat. dog."; a name's score is that of its best token.

    The library names a box by the tokens above a second threshold, which may spell half a name or two; here each box
    goes to one class.
    """

    model_class: ClassVar[str] = "GroundingDinoForObjectDetection"
    processor_class: ClassVar[str] = "GroundingDinoImageProcessor"
    tokenizer_class: ClassVar[str] = "BertTokenizer"
    threshold: ClassVar[float] = 0.3
    words: ClassVar[int] = 16

    def texts(self, names: Sequence[str], most: int) -> list[tuple[range, Text]]:
        """Names are lower case, without dots, since a dot ends a name; a text holds as many as the model has room for.

        Raises:
            ModelError: a name that is longer than a text may be.
        """
        clean = [" ".join(name.lower().replace(".", " ").split()) for name in names]
        limit, texts, start = int(self.model.config.max_text_len), [], 0
        while start < len(clean):
            stop = min(len(clean), start + most)
            text = self._text(clean[start:stop])
            while text.inputs["input_ids"].shape[1] > limit:
                if stop - start == 1:
                    raise too_long(names[start], int(text.inputs["input_ids"].shape[1]), limit)
                stop -= 1
                text = self._text(clean[start:stop])
            texts.append((range(start, stop), text))
            start = stop
        return texts

    def _text(self, names: Sequence[str]) -> Text:
        whole = "".join(f"{name}. " for name in names).rstrip()
        coded = self.tokenizer(whole, return_offsets_mapping=True, return_token_type_ids=True, return_tensors="pt")
        spans = coded.pop("offset_mapping")[0].tolist()
        places, start = [], 0
        for name in names:
            stop = start + len(name)
            places.append(tuple(i for i, (a, b) in enumerate(spans) if a < b and a >= start and b <= stop))
            start = stop + 2  # a dot and a blank
        return Text(dict(coded), tuple(places))

    def read(self, found: Any, text: Text) -> tuple[Tensor, Tensor]:
        p = found.logits.float().sigmoid()
        scores = torch.stack([p[..., list(place)].amax(dim=-1) for place in text.places], dim=-1)
        return corners(found.pred_boxes.float()), scores
