"""What near-duplicate search may be asked for."""

import importlib.util
import warnings
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Backend = Literal["auto", "exact", "faiss_flat", "faiss_ivf", "faiss_hnsw"]

EXACT_UP_TO = 50_000  # samples that `auto` compares all with all: about a minute of one core at 512 numbers each


class TestSet(BaseModel):
    """A set that no curated sample may be in. `scores` is a folder of score shards made with the same CLIP."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="how the set is called in decisions and reports")
    scores: str = Field(description="folder of its score shards, made with the same CLIP")


class DedupConfig(BaseModel):
    """Near-duplicate search over stored CLIP embeddings. It records pairs; selection decides what becomes of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="look for near-duplicates at all")
    backend: Backend = Field(
        default="auto",
        description="auto: exact up to 50,000 samples, faiss_ivf beyond; exact: all pairs (torch); faiss_flat: the "
        "same by faiss; faiss_ivf: only samples near the same centres; faiss_hnsw: a graph, for searches of a few "
        "against many",
    )
    threshold: float = Field(default=0.92, ge=0, le=1, description="least cosine of a recorded pair")
    k: int = Field(default=64, ge=1, description="faiss_hnsw: neighbours asked for each sample")
    nprobe: int = Field(default=16, ge=1, description="faiss_ivf: centres whose lists are searched for each sample")
    max_pairs: Annotated[int, Field(ge=1)] = Field(
        default=50_000_000,
        description="more recorded pairs than this end the stage: the threshold is too low for this set",
    )
    test_sets: tuple[TestSet, ...] = Field(default=(), description="sets that no curated sample may be in")


def dedup_backend(backend: Backend) -> Backend:
    """The backend that runs here: what was asked for, or `exact`, with a warning, where faiss is not installed.

    Approximate and exact search may differ in a pair or two, so a stage puts this answer into its config hash. `auto`
    stays `auto` where there is faiss: what it does follows from the number of samples (`backend_for`).
    """
    if backend == "exact" or importlib.util.find_spec("faiss") is not None:
        return backend
    if backend == "auto":
        return "exact"  # as it would be for most sets; `backend_for` warns of a large one
    _warn_of_no_faiss(backend)
    return "exact"


def backend_for(config: "DedupConfig", samples: int) -> Backend:
    """What searches a set of so many samples: never `auto`."""
    if config.backend != "auto":
        return dedup_backend(config.backend)
    if samples <= EXACT_UP_TO:
        return "exact"
    if dedup_backend("auto") == "exact":
        _warn_of_no_faiss("faiss_ivf")
        return "exact"
    return "faiss_ivf"


def _warn_of_no_faiss(backend: str) -> None:
    warnings.warn(
        f"faiss is not installed: near-duplicates are searched with backend exact instead of {backend}, in a time that "
        "grows with the square of the set. `pip install faiss-cpu` (or faiss-gpu-cu12 on a CUDA host) mends it",
        RuntimeWarning,
        stacklevel=3,
    )
