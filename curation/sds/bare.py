"""What the model alone could do: images a second through one plain forward, to hold the rate of scoring against."""

import time
from dataclasses import replace

import pyarrow as pa
import torch

from maskmill.curation.sds.images import Prepared, prepare
from maskmill.curation.sds.model import Engine, batch_of
from maskmill.curation.sds.score import COLUMNS

FORWARDS = 3  # the fastest counts: others waited for somebody


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
    seconds = [_forward(engine, images) for _ in range(1 + FORWARDS)][1:]
    return engine.micro_batch / min(seconds)


def _forward(engine: Engine, images: torch.Tensor) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        engine.backbone.embed(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
