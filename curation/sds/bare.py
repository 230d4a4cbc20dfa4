"""What the model alone could do: images a second through one plain forward, to hold the rate of scoring against."""

from dataclasses import replace

import pyarrow as pa
import torch

from maskmill.curation.sds.images import Prepared, prepare
from maskmill.curation.sds.model import Engine, batch_of
from maskmill.curation.sds.score import COLUMNS
from maskmill.vision.device import fastest


def bare_rate(samples: pa.Table, engine: Engine) -> float | None:
    """Images a second that the engine's model embeds, in batches as scoring has them, nothing else done: the size is
    that of the first sample that can be read. None where none can.
    """
    engine = replace(engine, micro_batch=engine.batches.size)
    rows = samples.select(COLUMNS).slice(0, engine.micro_batch).to_pylist()
    found = (prepare(row, engine.config, engine.space, engine.multiple) for row in rows)
    first = next((sample for sample in found if isinstance(sample, Prepared)), None)
    if first is None:
        return None
    images = batch_of([first.pixels] * engine.micro_batch, engine)
    with torch.no_grad():
        return engine.micro_batch / fastest(lambda: engine.backbone.embed(images), images.device)
