"""What would change the decision on one sample, and where the sample went: the rest of what `maskmill explain` says."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import fsspec
import polars as pl

from maskmill.data_contracts import DECISION, PSEUDO_LABEL, Reason, read_footer
from maskmill.pipelines.core.ledger import KEPT
from maskmill.pipelines.export.markers import read_marker
from maskmill.pipelines.report.words import key_of
from maskmill.pipelines.run.explain import GATES, TITLES, Explanation, read_table

BY_REASON = {reason.value: (column, key) for column, (reason, key, _) in GATES.items()}
HIGHEST = frozenset({"h_orig"})  # scores that must lie below their threshold


def outlook(run_dir: str, found: Explanation) -> Iterator[str]:
    """Lines on what would change the decision, by how much scores pass or fail, and what holds the sample."""
    yield from _margins(found)
    if found.decision is not None:
        yield from _change(found)
    yield from (f"  in {place}" for place in places(run_dir, found))


def _margins(found: Explanation) -> Iterator[str]:
    if found.scores is None:
        return
    for column, (low, high) in found.limits.items():
        value = found.scores[column]
        if value is not None and low == high:
            margin = low - value if column in HIGHEST else value - low
            yield f"  {TITLES[column]} {'passes' if margin > 0 else 'fails'} by {abs(margin):.3f}"


def _change(found: Explanation) -> Iterator[str]:
    decision = found.decision
    assert decision is not None
    reason, score = decision["reason"], decision["score"]
    if reason == KEPT:
        return
    if reason in BY_REASON and score is not None:
        _, key = BY_REASON[reason]
        side = "above" if reason == Reason.HIGH_ENTROPY.value else "below"
        line = f"--set select.{key}={_beyond(score, side)}"
        yield f"  would pass this gate with select.{key} {side} {score:.4f}, e.g. {line}"
    elif reason == Reason.NEAR_DUPLICATE.value and score is not None:
        yield f"  would stay with select.duplicate_similarity above {score:.4f}, or --set select.near_duplicates=keep"
    elif key := key_of(reason):
        yield f"  what to turn: {key}"


def _beyond(score: float, side: str) -> str:
    return f"{score + 1e-3 if side == 'above' else score - 1e-3:.4f}"


def places(run_dir: str, found: Explanation) -> list[str]:
    """Exports, pseudo-labels and training subsets that hold the sample, as paths inside the run folder."""
    if found.sample is None:
        return []
    shard = str(found.sample["shard"])
    kept = found.decision is not None and found.decision["reason"] == KEPT
    exports = [_export(run_dir, name, shard, found.sample_id) for name in _folders(f"{run_dir}/export")] if kept else []
    labels = [f"labels/{shard}"] if _holds(f"{run_dir}/labels/{shard}", found.sample_id) else []
    subsets = [
        f"downstream/{name}"
        for name in _folders(f"{run_dir}/downstream")
        if _kept_in(f"{run_dir}/downstream/{name}/decisions.parquet", found.sample_id)
    ]
    return [*(place for place in exports if place), *labels, *subsets]


def _export(run_dir: str, name: str, shard: str, sample_id: str) -> str:
    """An export's file of the sample, or its folder where samples are packed; empty where it holds none."""
    marker = read_marker(f"{run_dir}/export/{name}", PurePosixPath(shard).stem)
    if marker is None or not marker.fingerprint:
        return ""
    own = [file for file in marker.files if sample_id in file]
    return f"export/{name}/{own[0]}" if own else f"export/{name}"


def _holds(path: str, sample_id: str) -> bool:
    if read_footer(path) is None:
        return False
    return not read_table([path], PSEUDO_LABEL, ["sample_id"], sample_id).is_empty()


def _kept_in(path: str, sample_id: str) -> bool:
    if read_footer(path) is None:
        return False
    return not read_table([path], DECISION, ["sample_id", "kept"], sample_id).filter(pl.col("kept")).is_empty()


def _folders(path: str) -> list[str]:
    fs, target = fsspec.core.url_to_fs(path)
    if not fs.isdir(target):
        return []
    found = (entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(target, detail=False))
    return sorted(name for name in found if not name.startswith(".") and fs.isdir(f"{target}/{name}"))
