"""Do class names fit the photos at all? A label that ranks below "grass" and "wall" in its own photo says nothing."""

import numpy as np
import pyarrow as pa
import torch

from maskmill.curation.sds.model import Engine
from maskmill.data_contracts import load_label_space


def shown_at_all(scores: pa.Table, engine: Engine) -> list[bool]:
    """For each row of a Score table with labels and an embedding: the largest cosine of its own classes is above that
    of all 25 background words of VOC; words that are classes of the label space are left out.
    """
    space = engine.space
    own = {word.casefold() for c in space.classes for word in (c.name, c.text, *c.synonyms)}
    words = [w for w in load_label_space("voc").background_prompts if w.casefold() not in own]
    with torch.no_grad():
        texts = torch.stack([_text(word, engine) for word in words]).cpu().numpy()
    classes = engine.bank.matrix[: len(engine.bank.class_ids)].float().cpu().numpy()
    found = []
    for labels, embedding in zip(
        scores.column("label_ids").to_pylist(), scores.column("embedding").to_pylist(), strict=True
    ):
        rows = [engine.bank.row_of[i] for i in labels if i in engine.bank.row_of]
        if rows and embedding is not None and len(embedding) == texts.shape[1]:  # else another model's
            image = np.asarray(embedding, np.float32)
            found.append(bool((classes[rows] @ image).max() > (texts @ image).max()))
    return found


def _text(word: str, engine: Engine) -> torch.Tensor:
    """The unit embedding of a word, averaged over the engine's templates."""
    mean = engine.backbone.encode_text([template.format(word) for template in engine.config.templates]).mean(dim=0)
    return torch.nn.functional.normalize(mean, dim=-1)
