"""maskmill: segmentation training data that you can trust. `import maskmill as mm`; docs/python.md shows what it gives.

`mm.plan` and `mm.run` do a whole run, `mm.load_run` opens what a run left; `mm.score_pairs` and `mm.label` work on
images in memory; `mm.train` and `mm.load_artifact` give a segmenter. Each is imported when it is first used, so
that `import maskmill` costs nothing.

This package is the one that people import and the one that a wheel installs. In a checkout its rooms
(`data_contracts/`, `vision/` …) lie at the top level and are linked in here, so that every module has one name,
`maskmill.ROOM.…`, wherever it is imported from.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from maskmill import (
    _checkout,  # noqa: F401 - one module under one name, also where a checkout is on the path
    _cores,
)

_cores.settle(os.environ)

if TYPE_CHECKING:
    from maskmill.api import plan, run, train
    from maskmill.artifacts import Segmenter, load_artifact
    from maskmill.data_contracts import LabelSpace, load_label_space
    from maskmill.labelers import PseudoLabel
    from maskmill.pairs import label, score_pairs
    from maskmill.runs import Run, load_run
    from maskmill.trainers.engine import Prediction

_HOMES = {
    "LabelSpace": "data_contracts",
    "Prediction": "trainers.engine",
    "PseudoLabel": "labelers",
    "Run": "runs",
    "Segmenter": "artifacts",
    "label": "pairs",
    "load_artifact": "artifacts",
    "load_label_space": "data_contracts",
    "load_run": "runs",
    "plan": "api",
    "run": "api",
    "score_pairs": "pairs",
    "train": "api",
}
__all__ = [
    "LabelSpace",
    "Prediction",
    "PseudoLabel",
    "Run",
    "Segmenter",
    "label",
    "load_artifact",
    "load_label_space",
    "load_run",
    "plan",
    "run",
    "score_pairs",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("maskmill")
    if name not in _HOMES:
        raise AttributeError(f"module 'maskmill' has no attribute {name!r}; it gives: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"maskmill.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
