"""A checkpoint that a published method's own code left, as an artifact of ours: a published table without training."""

import json
import os
from typing import Any

from maskmill.data_contracts import LabelSpace, bytes_hash, content_id, read_bytes
from maskmill.trainers.engine import DataConfig, Job, Samples
from maskmill.trainers.registry import IMPORTS, get_importer, get_trainer


def import_checkpoint(method: str, file: str, out_dir: str, space: LabelSpace, settings: dict[str, Any]) -> str:
    """Write the artifact folder `out_dir` from a checkpoint file of `method`'s release; returns that folder.

    Its training has no shards behind it: the lineage is the hash of the file, and no metric is known.

    Raises:
        ValueError: a method whose checkpoints are not known, or a setting that its trainer does not have.
        WeightsError: a file that cannot be read or does not fit; says how many weights do, with examples.
    """
    from maskmill.trainers.engine import save_artifact
    from maskmill.trainers.engine.history import draw_curves
    from maskmill.vision.weights import read_state

    module, config = get_importer(method), get_trainer(method).Config.model_validate(settings)
    found = module.released_artifact(read_state(file), file, config, space)
    origin = content_id(bytes_hash(read_bytes(file)))
    fingerprint = content_id("imported", method, origin, config.fingerprint, space.fingerprint)
    data = Samples(DataConfig(samples=(os.path.basename(file),)), (), (origin,), {}, "", 0)
    job = Job(method, fingerprint, space, data, None, out_dir, out_dir)
    metrics = {"imported_from": os.path.basename(file)}
    return save_artifact(job, config, metrics=metrics, curves=draw_curves([], []), **found)


def known_methods() -> str:
    """The methods whose released checkpoints can be imported, for messages and help."""
    return json.dumps(sorted(IMPORTS))[1:-1].replace('"', "")
