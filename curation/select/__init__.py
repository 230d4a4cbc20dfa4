"""Selection over stored scores: gates, calibrated thresholds, quotas; one explained decision a sample."""

from typing import TYPE_CHECKING

from maskmill.data_contracts.lazy import lazily

if TYPE_CHECKING:
    from maskmill.curation.select.config import Calibrated, SelectConfig
    from maskmill.curation.select.gates import SelectionError
    from maskmill.curation.select.selection import SCORE_COLUMNS, Selection, decide, select

__all__ = ["SCORE_COLUMNS", "Calibrated", "SelectConfig", "Selection", "SelectionError", "decide", "select"]

__getattr__ = lazily(__name__, "config", "gates", "selection")
