"""Selection over stored scores: gates, calibrated thresholds, quotas; one explained decision a sample."""

from curation.select.config import Calibrated, SelectConfig
from curation.select.gates import SelectionError
from curation.select.selection import SCORE_COLUMNS, Selection, decide, select

__all__ = ["SCORE_COLUMNS", "Calibrated", "SelectConfig", "Selection", "SelectionError", "decide", "select"]
