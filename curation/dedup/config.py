"""What near-duplicate search may be asked for."""

import importlib.util
import warnings
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Backend = Literal["exact", "faiss_flat", "faiss_ivf", "faiss_hnsw"]


class TestSet(BaseModel):
    """A set that no curated sample may be in. `scores` is a folder of score shards made with the same CLIP."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    scores: str


class DedupConfig(BaseModel):
    """Near-duplicate search over stored CLIP embeddings. It records pairs; selection decides what becomes of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    backend: Backend = Field(
        default="exact",
        description="exact: all pairs by matrix products (torch, on the GPU where there is one); faiss_flat: the same "
        "by faiss; faiss_ivf, faiss_hnsw: approximate, for sets of more than about 200,000",
    )
    threshold: float = Field(default=0.92, ge=0, le=1, description="least cosine of a recorded pair")
    k: int = Field(default=64, ge=1, description="faiss_hnsw: neighbours asked for each sample")
    nprobe: int = Field(default=16, ge=1, description="faiss_ivf: lists searched for each sample")
    max_pairs: Annotated[int, Field(ge=1)] = 50_000_000
    test_sets: tuple[TestSet, ...] = ()


def dedup_backend(backend: Backend) -> Backend:
    """The backend that runs here: what was asked for, or `exact`, with a warning, where faiss is not installed.

    Approximate and exact search may differ in a pair or two, so a stage puts this answer into its config hash.
    """
    if backend == "exact" or importlib.util.find_spec("faiss") is not None:
        return backend
    warnings.warn(
        f"faiss is not installed: near-duplicates are searched with backend exact instead of {backend}, in a time that "
        "grows with the square of the set. `pip install faiss-cpu` (or faiss-gpu-cu12 on a CUDA host) mends it",
        RuntimeWarning,
        stacklevel=2,
    )
    return "exact"
