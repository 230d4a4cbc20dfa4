"""Scoring a table: one row a sample, to the bit the same in any company, and a reason for what cannot be scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.sds import SdsScorer, make_engine
from maskmill.curation.sds.score import score_rows
from maskmill.data_contracts import (
    SAMPLE,
    SCORE,
    LabelSpace,
    encode_image,
    encode_mask,
    list_shards,
    load_label_space,
    read_footer,
    read_shard,
    write_shard,
)
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.stages.score import score_stage, score_units
from maskmill.vision.clip import load_clip
from tests.curation.sds_samples import SPACE, TINY, config, image_of, mask_of, score, table

torch.set_num_threads(1)

SIZES = [(64, 64), (64, 128), (100, 70)]  # the last is rounded up to 128 x 128
SAMPLES = table(
    [(image_of(i, *SIZES[i % 3]), tuple(range(1, 2 + i % 3))) for i in range(10)],
    prompts=[[1], None, [2, 3], [4], [1, 2], None, [3], [2], [1], [4, 1]],
)
ALONE = pa.concat_tables([score(SAMPLES.slice(i, 1), labels="prompt", permutations=2) for i in range(10)])


@settings(deadline=None, max_examples=12)
@given(
    order=st.permutations(range(10)),
    cut=st.integers(0, 10),
    batch_size=st.sampled_from([1, 3, 16]),
)
def test_scores_do_not_depend_on_batch_order_or_shard(order: list[int], cut: int, batch_size: int) -> None:
    mixed = SAMPLES.take(order)
    parts = [mixed.slice(0, cut), mixed.slice(cut)]
    found = pa.concat_tables(
        [score(p, labels="prompt", permutations=2, batch_size=batch_size) for p in parts if p.num_rows]
    )
    assert found.equals(ALONE.take(order))  # to the bit


@settings(deadline=None, max_examples=6)
@given(order=st.permutations(range(10)), batch_size=st.sampled_from([1, 3, 16]))
def test_scores_do_not_depend_on_companions_in_a_padded_forward(order: list[int], batch_size: int) -> None:
    """The same for forwards of several images, as on a GPU."""
    options = {"labels": "prompt", "micro_batch": 4}
    alone = pa.concat_tables([score(SAMPLES.slice(i, 1), **options) for i in order])
    assert score(SAMPLES.take(order), batch_size=batch_size, **options).equals(alone)


def test_forwards_are_halved_for_good_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(config(labels="prompt"), SPACE, load_clip(TINY), micro_batch=4)
    tried: list[int] = []
    encode = engine.backbone.encode

    def full(images: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        tried.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("full")
        return encode(images, *args, **kwargs)

    monkeypatch.setattr(engine.backbone, "encode", full)
    found = score_rows(SAMPLES, engine, 0)
    assert found.equals(score(SAMPLES, labels="prompt", micro_batch=2)), "as if it had been so many from the start"
    assert (tried[0], set(tried[1:])) == (4, {2})
    assert engine.batches.size == 2
    monkeypatch.setattr(engine.backbone, "encode", lambda *_, **__: full(torch.zeros(3, 3, 8, 8)))
    with pytest.raises(MemoryError, match="one image does not fit; set precision: bf16, a lower image_side"):
        score_rows(SAMPLES, engine, 0)


@pytest.mark.parametrize("model", ["tiny_clip_timm", "tiny_clip_conv"])
def test_other_towers_are_invariant_too(model: str) -> None:
    from maskmill.curation.sds import score_table

    backbone = load_clip(str(Path(TINY).parent / model))
    options = config(image_side=128)
    whole = score_table(SAMPLES, options, SPACE, 0, backbone=backbone, batch_size=16)
    alone = [score_table(SAMPLES.slice(i, 1), options, SPACE, 0, backbone=backbone) for i in range(10)]
    assert whole.equals(pa.concat_tables(alone))


def test_refinement_in_processes_equals_refinement_here() -> None:
    few = SAMPLES.slice(0, 4)
    one = score(few, refine="mean_field", workers=1)
    assert one.equals(score(few, refine="mean_field", workers=2))
    assert not one.column("asf").equals(score(few).column("asf"))


@pytest.mark.parametrize("refine", ["crf", "mean_field", "par", "none"])
def test_every_refinement_gives_scores_in_range(refine: str) -> None:
    asf = score(SAMPLES.slice(0, 2), refine=refine).column("asf").to_numpy()
    assert bool(((asf >= 0) & (asf <= 1)).all())


def test_rows_keep_the_contract_and_the_order() -> None:
    assert ALONE.column("sample_id").equals(SAMPLES.column("sample_id"))
    SCORE.check(ALONE)
    for row in ALONE.to_pylist():
        embedding = np.asarray(row["embedding"])
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=2e-3)
        assert np.array_equal(embedding, embedding.astype(np.float16))  # stored at half precision
        assert row["image_score"] == row["pcs"]
        assert row["reason"] is None


def test_prompt_labels_are_used_where_given_and_masks_elsewhere() -> None:
    assert ALONE.column("label_ids").to_pylist()[:3] == [[1], [1, 2], [2, 3]]


def test_the_gate_saves_work_and_changes_no_score() -> None:
    gaps = sorted(row["pcs"] for row in score(SAMPLES).to_pylist())
    gated = score(SAMPLES, asf_gate=gaps[4]).to_pylist()
    for row, free in zip(gated, score(SAMPLES).to_pylist(), strict=True):
        assert row["pcs"] == free["pcs"]
        assert row["asf"] == (free["asf"] if row["pcs"] > gaps[4] else None)


def test_bad_rows_get_a_reason_and_spoil_nothing() -> None:
    good = SAMPLES.slice(0, 1).to_pylist()[0]
    image, mask = image_of(1), mask_of((1,))
    broken = {**good, "sample_id": "broken", "image": {"bytes": b"no image", "path": None}}
    pathless = {**good, "sample_id": "pathless", "image": {"bytes": None, "path": "elsewhere.jpg"}}
    no_class = {**good, "sample_id": "empty", "mask": {"bytes": encode_mask(mask * 0), "path": None}}
    no_class |= {"class_ids": [], "prompt_class_ids": []}
    mismatch = {**good, "sample_id": "size", "mask": {"bytes": encode_mask(mask[:32]), "path": None}}
    unmasked = {**good, "sample_id": "bare", "mask": None, "image": {"bytes": encode_image(image), "path": None}}
    rows = score(SAMPLE.table([broken, good, pathless, no_class, mismatch, unmasked])).to_pylist()
    assert [r["reason"] for r in rows] == [
        "score_failed",
        None,
        "score_failed",
        "no_classes",
        "score_failed",
        None,
    ]
    assert "no image" not in rows[0]["detail"]
    assert "mask" in rows[4]["detail"]
    assert {**rows[1], "sample_id": 0} == {**score(SAMPLES.slice(0, 1)).to_pylist()[0], "sample_id": 0}
    assert rows[5]["asf"] is None
    assert rows[5]["pcs"] is not None


def test_a_mask_that_shows_nothing_counts_no_classes() -> None:
    """Selection tells a negative (0 classes) from a sample of which nothing is known (None)."""
    good = SAMPLES.slice(0, 1).to_pylist()[0] | {"class_ids": [], "prompt_class_ids": []}
    masks = {"negative": mask_of((1,)) * 0, "hidden": mask_of((1,)) * 0 + 255}
    rows = [{**good, "sample_id": name, "mask": {"bytes": encode_mask(m), "path": None}} for name, m in masks.items()]
    found = score(SAMPLE.table([*rows, {**good, "sample_id": "bare", "mask": None}])).to_pylist()
    assert [(row["sample_id"], row["n_classes"]) for row in found] == [
        ("negative", 0),
        ("hidden", None),
        ("bare", None),
    ]
    assert {row["reason"] for row in found} == {"no_classes"}


def test_an_empty_table_gives_an_empty_table() -> None:
    assert score(SAMPLES.slice(0, 0)).num_rows == 0


def test_a_space_without_background_is_scored() -> None:
    space = LabelSpace.model_validate({**SPACE.model_dump(), "background_id": None})
    from maskmill.curation.sds import score_table

    rows = score_table(SAMPLES.slice(0, 2), config(), space, 0, backbone=load_clip(TINY)).to_pylist()
    assert all(0 <= row["asf"] <= 1 for row in rows)


def test_released_box_threshold_is_the_label_space_s() -> None:
    engine = make_engine(config(box_threshold=None), load_label_space("coco"), load_clip(TINY))
    assert engine.box_threshold == 0.7


def test_stage_writes_resumes_and_recomputes_only_for_its_own_options(tmp_path: Path) -> None:
    run = str(tmp_path)
    for index in range(2):
        path = f"{run}/samples/shard-{index:05d}.parquet"
        write_shard(
            path, SAMPLES.slice(index * 5, 5), SAMPLE, stage="ingest", fingerprint=str(index), config_hash="", inputs=()
        )
    stage = score_stage(config(), SPACE, 0)
    assert [r.status for r in map_units(stage, score_units(run), workers=2)] == ["written", "written"]
    assert [r.status for r in map_units(stage, score_units(run))] == ["skipped", "skipped"]
    shards = list_shards(f"{run}/scores")
    whole = pa.concat_tables([read_shard(path, SCORE) for path in shards])
    assert whole.equals(score(SAMPLES))
    footer = read_footer(shards[0])
    assert footer is not None
    assert footer.counts == {"kept": 5}
    assert SdsScorer(config(), SPACE, batch_size=3, workers=2).score(SAMPLES, 0).equals(whole)
    others = [
        score_stage(config(permutations=2), SPACE, 0),
        score_stage(config(), SPACE, 1),
        score_stage(config(), load_label_space("voc"), 0),
        score_stage(config(model=str(Path(TINY).parent / "tiny_clip_timm")), SPACE, 0),
    ]
    assert len({stage.config_hash, *(other.config_hash for other in others)}) == 5
