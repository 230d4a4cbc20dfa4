"""Near-duplicates by CLIP embedding: search (exact or faiss), clusters, keep-best, and leaks into a test set."""

from maskmill.curation.dedup.clusters import clusters, keep_best
from maskmill.curation.dedup.config import DedupConfig, TestSet, dedup_backend
from maskmill.curation.dedup.neighbours import leakage, neighbours, recall
from maskmill.curation.dedup.search import TooManyPairsError, find_pairs

__all__ = [
    "DedupConfig",
    "TestSet",
    "TooManyPairsError",
    "clusters",
    "dedup_backend",
    "find_pairs",
    "keep_best",
    "leakage",
    "neighbours",
    "recall",
]
