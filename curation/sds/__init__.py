"""SDS: training-free scores of synthetic (or any) image-mask pairs. PCS reads the image, ASF the annotation."""

from curation.sds.asf import AsfScore, asf_score, pseudo_label
from curation.sds.config import SdsConfig
from curation.sds.model import Engine, make_engine
from curation.sds.pcs import entropy, shuffle_tiles, tile_permutations
from curation.sds.score import score_rows, score_table

__all__ = [
    "AsfScore",
    "Engine",
    "SdsConfig",
    "asf_score",
    "entropy",
    "make_engine",
    "pseudo_label",
    "score_rows",
    "score_table",
    "shuffle_tiles",
    "tile_permutations",
]
