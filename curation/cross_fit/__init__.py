"""Cross-fit agreement: a second annotation score that needs no CLIP. A segmenter fitted to the other folds of the data
set draws each image's mask; the score is how well the annotation agrees.
"""

from typing import TYPE_CHECKING

from maskmill.curation.cross_fit.config import CrossFitConfig, CrossFitOptions
from maskmill.data_contracts.lazy import lazily

if TYPE_CHECKING:
    from maskmill.curation.cross_fit.agree import Agreement, agreement
    from maskmill.curation.cross_fit.judge import CrossFit
    from maskmill.curation.cross_fit.scorer import VERSION, CrossFitScorer, identity, load

Config = CrossFitConfig

__all__ = [
    "VERSION",
    "Agreement",
    "Config",
    "CrossFit",
    "CrossFitConfig",
    "CrossFitOptions",
    "CrossFitScorer",
    "agreement",
    "identity",
    "load",
]

__getattr__ = lazily(__name__, "agree", "judge", "scorer")
