"""Text bank: the unit embeddings of every class prompt and every background prompt of a label space, computed once.

One bank serves all images: an image's text list (its classes, then all background texts) is a mask over the bank's
rows, so a masked softmax over the bank equals the softmax over the list.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import fsspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maskmill.data_contracts import LabelSpace, content_id, read_bytes, write_bytes
from maskmill.vision.clip.backbone import ClipBackbone

ORIGAMI = ("a clean origami {}.",)  # the one template of CLIP-ES, SDS and WeCLIP


@dataclass(frozen=True)
class TextBank:
    """`matrix` (T, E) fp32 unit rows: classes in the order of `class_ids`, then the background texts. `texts` says
    which is which.
    """

    matrix: Tensor
    class_ids: tuple[int, ...]
    texts: tuple[str, ...]

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row of each class id."""
        return {class_id: row for row, class_id in enumerate(self.class_ids)}

    @property
    def n_background(self) -> int:
        return len(self.texts) - len(self.class_ids)

    @property
    def is_class(self) -> Tensor:
        """Which rows are classes and not background, bool (T,)."""
        return torch.arange(len(self.texts), device=self.matrix.device) < len(self.class_ids)

    def rows(self, class_ids: Sequence[int]) -> list[int]:
        """Rows of these class ids.

        Raises:
            ValueError: a class id that the label space lacks.
        """
        unknown = [i for i in class_ids if i not in self.row_of]
        if unknown:
            raise ValueError(f"class ids {unknown} are not in the label space; known: {list(self.class_ids)}")
        return [self.row_of[i] for i in class_ids]

    def allowed(self, labels: Sequence[Sequence[int]]) -> Tensor:
        """Which rows compete for each image, bool (B, T): its own classes and all background texts."""
        mask = torch.zeros(len(labels), len(self.texts), dtype=torch.bool, device=self.matrix.device)
        mask[:, len(self.class_ids) :] = True
        for index, ids in enumerate(labels):
            mask[index, self.rows(ids)] = True
        return mask

    def log_probabilities(self, embeddings: Tensor, allowed: Tensor, scale: float) -> Tensor:
        """log softmax over the allowed texts of scale * cosine: (B, E), bool (B, T) -> (B, T), -inf where not
        allowed.
        """
        logits = scale * embeddings.float() @ self.matrix.T
        return logits.masked_fill(~allowed, float("-inf")).log_softmax(dim=-1)


def build_text_bank(
    space: LabelSpace,
    backbone: ClipBackbone,
    templates: Sequence[str] = ORIGAMI,
    *,
    synonyms: bool = False,
    cache_dir: str | None = None,
) -> TextBank:
    """Embed the prompts of a label space.

    A class's row is the normalised mean over templates (and, with `synonyms`, over its synonyms too) of unit text
    embeddings.

    Args:
        templates: each with one `{}`.
        cache_dir: folder or fsspec URL; a bank is stored there under a hash of the model's weights and of all texts.

    Raises:
        ValueError: no template, or one without `{}`.
    """
    if not templates or any(t.count("{}") != 1 for t in templates):
        raise ValueError(f"templates: expected at least one text with exactly one {{}}, found {list(templates)}")
    words = [[c.text, *(c.synonyms if synonyms else ())] for c in sorted(space.classes, key=lambda c: c.id)]
    words += [[text] for text in space.background_prompts]
    prompts = [[template.format(word) for word in row for template in templates] for row in words]
    matrix = _cached(backbone, prompts, cache_dir)
    return TextBank(matrix.to(backbone.device), space.ids, tuple(row[0] for row in words))


def _cached(backbone: ClipBackbone, prompts: list[list[str]], cache_dir: str | None) -> Tensor:
    if cache_dir is None:
        return _embed(backbone, prompts)
    key = content_id(backbone.fingerprint, *("\x1f".join(row) for row in prompts))
    path = f"{cache_dir.rstrip('/')}/text-{key}.npy"
    fs, target = fsspec.core.url_to_fs(path)
    if fs.exists(target):
        return torch.from_numpy(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))
    matrix = _embed(backbone, prompts)
    buffer = io.BytesIO()
    np.save(buffer, matrix.cpu().numpy(), allow_pickle=False)
    write_bytes(path, buffer.getvalue())
    return matrix


def _embed(backbone: ClipBackbone, prompts: list[list[str]]) -> Tensor:
    rows = [backbone.encode_text(row).mean(dim=0) for row in prompts]
    return functional.normalize(torch.stack(rows), dim=-1)
