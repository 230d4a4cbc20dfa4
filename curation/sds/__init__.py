"""SDS: training-free scores of synthetic (or any) image-mask pairs. PCS reads the image, ASF the annotation."""

from typing import TYPE_CHECKING

from maskmill.curation.sds.config import SdsConfig
from maskmill.data_contracts.lazy import lazily

if TYPE_CHECKING:
    from maskmill.curation.sds.asf import AsfScore, asf_score, pseudo_label
    from maskmill.curation.sds.model import Engine, make_engine
    from maskmill.curation.sds.pcs import entropy, shuffle_tiles, tile_permutations
    from maskmill.curation.sds.score import score_rows, score_table
    from maskmill.curation.sds.scorer import VERSION, SdsScorer, identity, load

Config = SdsConfig

__all__ = [
    "VERSION",
    "AsfScore",
    "Config",
    "Engine",
    "SdsConfig",
    "SdsScorer",
    "asf_score",
    "entropy",
    "identity",
    "load",
    "make_engine",
    "pseudo_label",
    "score_rows",
    "score_table",
    "shuffle_tiles",
    "tile_permutations",
]

__getattr__ = lazily(__name__, "asf", "pcs", "model", "score", "scorer")
