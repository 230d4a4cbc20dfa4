"""A run that draws images for masks that exist: config, plan, FreeMask's judge, ledger; and its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from small_pipelines import save_controlnet, save_pipeline

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    decode_image,
    decode_mask,
    list_shards,
    load_label_space,
    read_shard,
)
from maskmill.generators.layouts import resize_nearest
from maskmill.generators.region_filter import filter_regions, images_per_mask
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.run import plan, run
from maskmill.pipelines.stages.freemask import judged_masks, open_judge
from maskmill.pipelines.stages.from_masks import FreeMaskConfig
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig

VOC = load_label_space("voc")
DATA = Path(__file__).parents[1] / "data"
SCORE = {"model": f"{DATA}/tiny_clip_timm", "image_side": 64, "refine": "none"}
KEEP_ALL = {"preset": "starter", "image_score_tau": None, "min_score": None, "near_duplicates": "keep"}


def rows_of(folder: str, contract=SAMPLE) -> list[dict]:
    return [row for path in list_shards(folder) for row in read_shard(path, contract).to_pylist()]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> str:
    """Four drawn scenes with their masks, as a run reads them."""
    folder = str(tmp_path_factory.mktemp("real"))
    source = {"kind": "drawn", "count": 4, "scene": {"size": 32}}
    run(RunConfig(name="real", run_dir=folder, source=source, shard_size=2, score=SCORE), until="ingest")
    return folder


@pytest.fixture(scope="module")
def control(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("control")
    model = save_pipeline(folder)
    net = save_controlnet(folder, UNet2DConditionModel.from_pretrained(model / "unet"))
    return {
        "model": str(model),
        "controlnet": str(net),
        "height": 16,
        "width": 16,
        "steps": 2,
        "batch_size": 2,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, real) -> str:
    folder = tmp_path_factory.mktemp("segmenter")
    settings = {
        "steps": 2,
        "batch": 2,
        "precision": "fp32",
        "segmenter": {"architecture": "fpn", "weights": "random"},
        "augment": {"size": 32, "fit": "long"},
        "runtime": {"progress": False},
    }
    config = TrainConfig(label_space=VOC, data=DataConfig(samples=(f"{real}/samples",)), settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def config_of(folder: Path, real: str, control: dict, **more) -> RunConfig:
    masks = {"samples": f"{real}/samples", "control": control, "per_mask": 3, "scenes": ["grass", "road"], **more}
    generate = {"from_masks": masks}
    return RunConfig(name="drawn", run_dir=str(folder), generate=generate, score=SCORE, select=KEEP_ALL)


def test_a_run_draws_every_mask_and_accounts_for_every_image(tmp_path: Path, real, control) -> None:
    config = config_of(tmp_path / "run", real, control)
    assert plan(config)[0].to_run == 2
    done = run(config)
    assert done.ledger.rows_in == 4 * 3 == sum(done.ledger.counts.values())
    made = rows_of(f"{config.run_dir}/samples")
    wanted = sorted(row["sample_id"] for row in rows_of(f"{real}/samples") for _ in range(3))
    lost = [row["sample_id"].rpartition("-")[0] for row in rows_of(f"{config.run_dir}/rejects", DECISION)]
    assert sorted([json.loads(row["provenance"]["extra"])["mask_id"] for row in made] + lost) == wanted
    assert run(config).idle
    assert all(line.to_run == 0 for line in plan(config))


def test_the_judge_filters_labels_and_draws_hard_masks_more_often(tmp_path: Path, real, control, segmenter) -> None:
    filter = {"artifact": segmenter, "tolerance": 1.0, "device": "cpu"}
    config = config_of(tmp_path / "run", real, control, filter=filter)
    assert "looks at the real pairs first" in plan(config)[0].words
    done = run(config)
    judged = judged_masks(
        FreeMaskConfig(**filter), f"{real}/samples", 3, VOC, str(tmp_path / "elsewhere" / "freemask.json")
    )
    hard = json.loads((tmp_path / "run" / "freemask.json").read_text())["hardness"]
    assert judged.images == images_per_mask(hard, 3)
    assert sorted(judged.images.values()) == [2, 3, 3, 3], "the i-th easiest of four gets min(1 + round(3 i / 4), 3)"
    assert done.ledger.rows_in == sum(judged.images.values())
    kept = rows_of(f"{config.run_dir}/samples")
    assert any(json.loads(row["provenance"]["extra"])["filtered"] for row in kept)
    judge = open_judge(FreeMaskConfig(**filter), VOC)
    sources = {row["sample_id"]: row for row in rows_of(f"{real}/samples")}
    for row in kept:
        source = sources[json.loads(row["provenance"]["extra"])["mask_id"]]
        whole = resize_nearest(decode_mask(source["mask"]["bytes"], "real"), (16, 16))
        (losses,) = judge.losses([decode_image(row["image"]["bytes"], "drawn")], [whole])
        expected = filter_regions(whole, losses, judged.means, 1.0)
        assert np.array_equal(decode_mask(row["mask"]["bytes"], "drawn"), expected)
    assert run(config).idle


def test_another_tolerance_draws_again_but_does_not_look_again(tmp_path: Path, real, control, segmenter) -> None:
    first = config_of(tmp_path, real, control, filter={"artifact": segmenter, "tolerance": 1e6, "device": "cpu"})
    run(first, until="generate")
    assert not any(json.loads(r["provenance"]["extra"])["filtered"] for r in rows_of(f"{tmp_path}/samples"))
    seen = (tmp_path / "freemask.json").read_bytes()
    second = config_of(tmp_path, real, control, filter={"artifact": segmenter, "tolerance": 0.5, "device": "cpu"})
    assert plan(second)[0].waits_for is None
    run(second, until="generate")
    assert (tmp_path / "freemask.json").read_bytes() == seen
    assert any(json.loads(r["provenance"]["extra"])["filtered"] for r in rows_of(f"{tmp_path}/samples"))


def test_a_segmenter_of_other_classes_is_refused(tmp_path: Path, real, control, segmenter) -> None:
    config = config_of(tmp_path, real, control, filter={"artifact": segmenter})
    other = config.model_copy(update={"label_space": load_label_space("coco")})
    with pytest.raises(ConfigError, match=r"filter.artifact .*: expected a segmenter of label space coco.*, found"):
        run(other, until="generate")


def test_masks_and_text_exclude_each_other(real, control) -> None:
    masks = {"samples": f"{real}/samples", "control": control}
    for key, value in (("captions", "a.txt"), ("quota", 3)):
        with pytest.raises(ValidationError, match="drop captions and quota"):
            RunConfig(name="a", run_dir="runs/a", generate={"from_masks": masks, key: value})
