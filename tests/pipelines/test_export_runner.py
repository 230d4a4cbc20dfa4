"""Exports are resumable, idempotent, leave nothing stale behind, and give the same bytes however they came about."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from maskmill.data_contracts import ContractError, list_shards, load_label_space
from maskmill.pipelines.export import (
    EXPORTERS,
    create_exporter,
    export_shard,
    export_units,
    finish_export,
    run_export,
    why_export,
)
from maskmill.pipelines.export.runner import why_finish
from maskmill.pipelines.export.sample import portable_image
from tests.factories import FakeRun, jpeg, make_run

FORMATS = sorted(EXPORTERS)


def tree(folder: str) -> dict[str, bytes]:
    """Every file under a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def root(run: FakeRun, name: str) -> str:
    return f"{run.path}/export/{name}"


@pytest.mark.parametrize("name", FORMATS)
def test_second_export_does_nothing(run: FakeRun, name: str) -> None:
    exporter = create_exporter(name)
    first = run_export(run.path, exporter, run.space)
    before = tree(root(run, name))
    second = run_export(run.path, exporter, run.space)
    assert {r.status for r in first} == {"written"}
    assert {r.status for r in second} == {"skipped"}
    assert tree(root(run, name)) == before
    assert sum(r.rows for r in first[:-1]) == first[-1].rows == len(run.kept)


@pytest.mark.parametrize("name", FORMATS)
def test_changed_selection_leaves_no_stale_file(run: FakeRun, tmp_path: Path, name: str) -> None:
    exporter = create_exporter(name)
    run_export(run.path, exporter, run.space)
    run.keep(set(sorted(run.kept)[::2]) | {str(run.samples[1][3]["sample_id"])})
    run_export(run.path, exporter, run.space)
    fresh = make_run(tmp_path / "fresh", shards=3, rows=6, faults=True)
    fresh.keep(run.kept)
    run_export(fresh.path, exporter, fresh.space)
    assert tree(root(run, name)) == tree(root(fresh, name))


def test_only_shards_whose_selection_changed_are_written_again(run: FakeRun) -> None:
    exporter = create_exporter("voc")
    run_export(run.path, exporter, run.space)
    gone = next(str(row["sample_id"]) for row in run.samples[1] if row["sample_id"] in run.kept)
    run.keep(run.kept - {gone})
    reasons = [why_export(unit) for unit in export_units(run.path, exporter, run.space)]
    assert reasons == [None, "its samples or the selection changed", None]
    assert [r.status for r in run_export(run.path, exporter, run.space)] == ["skipped", "written", "skipped", "written"]
    assert not [path for path in tree(root(run, "voc")) if gone in path]


def test_back_to_the_first_selection_after_a_cut_off_one(run: FakeRun, tmp_path: Path) -> None:
    exporter = create_exporter("coco")
    run.keep(run.kept)
    run_export(run.path, exporter, run.space)
    before, kept = tree(root(run, "coco")), run.kept
    run.keep({str(row["sample_id"]) for row in run.samples[0]})
    export_shard(export_units(run.path, exporter, run.space)[0])  # and then the process died
    run.keep(kept)
    run_export(run.path, exporter, run.space)
    assert tree(root(run, "coco")) == before


def test_other_shard_size_keeps_samples_that_moved(tmp_path: Path) -> None:
    exporter = create_exporter("voc")
    small, large = (make_run(tmp_path / n, shards=s, rows=r, rejects=0) for n, s, r in (("a", 4, 3), ("b", 2, 6)))
    for run in (small, large):
        run.keep(set(run.rows))
    run_export(small.path, exporter, small.space)
    os.rename(f"{small.path}/export", f"{large.path}/export")
    run_export(large.path, exporter, large.space)
    names = {Path(p).stem for p in tree(root(large, "voc")) if p.endswith((".jpg", ".png"))}
    assert names == large.kept
    assert not [p for p in tree(root(large, "voc")) if "shard-00002" in p or "shard-00003" in p]


def test_reasons_in_words(run: FakeRun) -> None:
    exporter = create_exporter("coco")
    unit = export_units(run.path, exporter, run.space)[0]
    assert why_export(unit) == "not done yet"
    export_shard(unit)
    assert why_export(unit) is None
    assert why_finish(run.path, exporter, run.space) == "not done yet"
    finish_export(run.path, exporter, run.space)
    assert why_finish(run.path, exporter, run.space) is None
    parts = export_units(run.path, create_exporter("coco", regions="part"), run.space)[0]
    assert why_export(parts) == "its config or the code changed"
    titled = create_exporter("coco", title="Shapes")
    assert why_export(export_units(run.path, titled, run.space)[0]) is None
    assert why_finish(run.path, titled, run.space) == "what it lists changed"


@pytest.mark.parametrize("name", FORMATS)
def test_workers_and_order_change_no_byte(run: FakeRun, tmp_path: Path, name: str) -> None:
    exporter = create_exporter(name)
    run_export(run.path, exporter, run.space, workers=4)
    other = make_run(tmp_path / "other", shards=3, rows=6, faults=True)
    for unit in reversed(export_units(other.path, exporter, other.space)):
        export_shard(unit)
    finish_export(other.path, exporter, other.space)
    assert tree(root(run, name)) == tree(root(other, name))


def export_until(folder: str, name: str, at: int = -1) -> int:
    """Export a run; returns how often that synced or renamed a file. The `at`-th time kills the process instead."""
    seen = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    with mock.patch.multiple(os, replace=counted(os.replace), fsync=counted(os.fsync)):
        run_export(folder, create_exporter(name), load_label_space("voc"))
    return seen[0]


@pytest.mark.parametrize("name", ["coco", "webdataset"])
def test_killed_anywhere_ends_with_the_same_bytes(run: FakeRun, tmp_path: Path, name: str) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, for all who are killed

    def ended(folder: str, at: int) -> int | None:
        process = context.Process(target=export_until, args=(folder, name, at))
        process.start()
        process.join()
        return process.exitcode

    calls = export_until(run.path, name)
    other = make_run(tmp_path / "other", shards=3, rows=6, faults=True)
    codes = [ended(other.path, int(at)) for at in np.linspace(2, calls, 5)]  # each goes on where one was killed
    assert codes[0] == -signal.SIGKILL
    assert set(codes) <= {-signal.SIGKILL, 0}
    export_until(other.path, name)
    assert tree(root(other, name)) == tree(root(run, name))
    assert not [path for path in tree(other.path) if "-tmp-" in path]


def test_groups_never_straddle_splits() -> None:
    exporter = create_exporter("voc", splits={"train": 0.5, "val": 0.25, "test": 0.25})
    names = [f"clip-{i}" for i in range(2000)]
    dealt = [exporter.split_of(name) for name in names]
    assert dealt == [exporter.split_of(name) for name in names]
    assert dealt.count("train") / 2000 == pytest.approx(0.5, abs=0.05)
    assert dealt.count("test") / 2000 == pytest.approx(0.25, abs=0.05)
    turned = create_exporter("voc", splits={"test": 0.25, "val": 0.25, "train": 0.5})
    assert dealt == [turned.split_of(name) for name in names]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        create_exporter("voc", splits={"train": 0.5})
    with pytest.raises(ValueError, match="plain words"):
        create_exporter("voc", splits={"../train": 1.0})
    with pytest.raises(ValueError, match="Extra inputs"):
        create_exporter("voc", qualty=3)
    with pytest.raises(ValueError, match="is no export format; there is: voc"):
        create_exporter("tfrecord")


@pytest.mark.parametrize("name", ["voc", "coco", "yolo"])
def test_kept_sample_without_mask_is_named(tmp_path: Path, name: str) -> None:
    from maskmill.data_contracts import SAMPLE, read_shard, write_shard

    run = make_run(tmp_path / "run", shards=1, rows=2, duplicates=False)
    run.keep(set(run.rows))
    path = list_shards(f"{run.path}/samples")[0]
    rows = read_shard(path, SAMPLE).to_pylist()
    rows[0]["mask"] = None
    write_shard(path, SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="x")
    with pytest.raises(ContractError, match=rf"{rows[0]['sample_id']}.*missing_mask"):
        run_export(run.path, create_exporter(name), run.space)
    for other in ("hf", "webdataset"):
        run_export(run.path, create_exporter(other), run.space)


def test_images_go_out_as_they_came_in_where_loaders_agree() -> None:
    import io

    from PIL import Image

    from maskmill.data_contracts import decode_image, encode_image

    picture = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    plain = jpeg(picture)
    assert portable_image(plain) == (plain, ".jpg")
    png = encode_image(picture)
    assert portable_image(png) == (png, ".png")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([picture, picture[..., 0]])).save(buffer, "PNG")
    for data in (jpeg(picture, exif.tobytes()), buffer.getvalue()):
        out, suffix = portable_image(data)
        assert suffix == ".png"
        seen = np.asarray(Image.open(io.BytesIO(out)).convert("RGB"))
        np.testing.assert_array_equal(seen, decode_image(data))


def test_decisions_are_read_fast(tmp_path: Path) -> None:
    from maskmill.pipelines.core.ledger import decisions_by_shard
    from tests.factories import make_reject, write_decisions

    row = make_reject(np.random.default_rng(0), "shard-00000.parquet") | {"stage": "select"}
    write_decisions(str(tmp_path), [{**row, "sample_id": f"{i:032x}"} for i in range(50_000)])
    started = time.perf_counter()
    found = decisions_by_shard(str(tmp_path))
    assert found is not None
    assert len(found["shard-00000.parquet"]) == 50_000
    assert time.perf_counter() - started < 2
