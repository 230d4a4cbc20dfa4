"""Stage label, the photo folder, the commands, and pseudo-labels to a trained segmenter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import PSEUDO_LABEL, SAMPLE, LabelSpace, decode_mask, list_shards, read_footer, read_shard
from maskmill.labelers import get_labeler
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter
from maskmill.pipelines.stages.label import LabelConfig, label, label_units
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.label_photos import label_photos
from maskmill.trainers.engine import DataConfig
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
SETTINGS: dict[str, Any] = {
    "model": TINY,
    "image_side": 64,
    "refine": "par",
    "par_iterations": 1,
    "tag_threshold": 1e-9,
}


@pytest.fixture
def rows() -> list[shapes.Row]:
    return [shapes.sample_row(number) for number in range(5)]


def config(samples: str, **options: Any) -> LabelConfig:
    return LabelConfig(label_space=shapes.SPACE, samples=samples, settings=SETTINGS, **options)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    paths = list_shards(str(folder))
    return {row["sample_id"]: row for path in paths for row in read_shard(path, PSEUDO_LABEL).to_pylist()}


def test_every_sample_gets_a_row_and_a_second_run_writes_nothing(tmp_path: Path, rows: list[shapes.Row]) -> None:
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE, shards=2)
    counts = label(config(samples), str(tmp_path / "labels"))
    found = read(tmp_path / "labels")
    assert found.keys() == {row["sample_id"] for row in rows}
    assert sum(counts.values()) == len(rows)
    for row in rows:
        one = found[str(row["sample_id"])]
        mask = decode_mask(one["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"])
        assert set(np.unique(mask).tolist()) <= {0, 255, *row["class_ids"]}  # type: ignore[misc]
        assert (one["labeler"], one["labeler_version"]) == ("clip_cam", str(get_labeler("clip_cam").VERSION))
    stamp = {path: Path(path).stat().st_mtime_ns for path in list_shards(str(tmp_path / "labels"))}
    assert label(config(samples), str(tmp_path / "labels")) == counts
    assert stamp == {path: Path(path).stat().st_mtime_ns for path in stamp}


def test_labels_do_not_depend_on_sharding(tmp_path: Path, rows: list[shapes.Row]) -> None:
    one = shapes.write_rows(tmp_path / "one", rows, SAMPLE)
    many = shapes.write_rows(tmp_path / "many", rows, SAMPLE, shards=3)
    label(config(one), str(tmp_path / "a"))
    label(config(many), str(tmp_path / "b"))
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_weak_labels_give_the_tags_and_decisions_the_samples(tmp_path: Path, rows: list[shapes.Row]) -> None:
    bare = [{**row, "mask": None, "class_ids": []} for row in rows]
    samples = shapes.write_rows(tmp_path / "samples", bare, SAMPLE, shards=2)
    weak = shapes.write_weak(tmp_path / "weak", rows[:4])
    decisions = shapes.write_decisions(tmp_path / "decisions.parquet", rows, kept=3)
    label(config(samples, weak=weak, decisions=decisions), str(tmp_path / "labels"))
    found = read(tmp_path / "labels")
    assert found.keys() == {row["sample_id"] for row in rows[:3]}
    for row in rows[:3]:
        mask = decode_mask(found[str(row["sample_id"])]["mask"]["bytes"])
        assert set(np.unique(mask).tolist()) <= {0, 255, *row["class_ids"]}  # type: ignore[misc]


def test_units_pair_shards_by_name_where_they_can(tmp_path: Path, rows: list[shapes.Row]) -> None:
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE, shards=2)
    whole = shapes.write_weak(tmp_path / "whole", rows)
    for unit in label_units(config(samples, weak=whole), str(tmp_path / "labels")):
        assert unit.inputs[1:] == tuple(list_shards(whole))
    assert [unit.inputs[1:] for unit in label_units(config(whole, weak=whole), "labels")] == [
        (path,) for path in list_shards(whole)
    ]
    with pytest.raises(FileNotFoundError, match="expected shards"):
        label_units(config(str(tmp_path / "nowhere")), str(tmp_path / "labels"))


def test_a_broken_image_abstains_with_its_reason(tmp_path: Path, rows: list[shapes.Row]) -> None:
    broken = {**rows[0], "image": {"bytes": b"not an image", "path": None}}
    samples = shapes.write_rows(tmp_path / "samples", [broken, rows[1]], SAMPLE)
    counts = label(config(samples), str(tmp_path / "labels"))
    assert counts == {"undecodable_image": 1, "kept": 1}
    assert read(tmp_path / "labels")[str(broken["sample_id"])]["mask"] is None


def test_another_option_or_model_labels_again(tmp_path: Path, rows: list[shapes.Row]) -> None:
    samples = shapes.write_rows(tmp_path / "samples", rows[:1], SAMPLE)
    out = tmp_path / "labels"
    prints = set()
    for settings in (SETTINGS, {**SETTINGS, "par_iterations": 2}, {**SETTINGS, "model": TINY + "_timm"}):
        label(LabelConfig(label_space=shapes.SPACE, samples=samples, settings=settings), str(out))
        footer = read_footer(list_shards(str(out))[0])
        assert footer is not None
        prints.add(footer.fingerprint)
    assert len(prints) == 3


def write_photos(folder: Path) -> None:
    (folder / "trip").mkdir(parents=True)
    for number, name in enumerate(("a.png", "trip/b.jpg", "twin.png", "twin.jpg")):
        Image.fromarray(shapes.draw_scene(number)[0]).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no photo")


def test_folder_of_photos_to_masks_overlays_and_a_page(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    out = tmp_path / "out"
    space = LabelSpace.from_names(["horse", "person"])
    counts = label_photos(str(tmp_path / "photos"), str(out), space, settings=SETTINGS)
    assert counts == {"kept": 4, "undecodable_image": 1}
    names = {str(path.relative_to(out / "masks")) for path in (out / "masks").rglob("*.png")}
    assert names == {"a.png", "trip/b.png", "twin.png.png", "twin.jpg.png"}
    mask = Image.open(out / "masks" / "trip" / "b.png")
    assert mask.mode == "P"
    assert mask.size == (56, 48)
    assert set(np.unique(np.asarray(mask)).tolist()) <= {0, 1, 2, 255}
    page = (out / "index.html").read_text()
    assert "4 of 5 photos labelled" in page
    assert "broken.jpg" in page
    assert 'src="overlays/trip/b.png"' in page
    assert (out / "overlays" / "trip" / "b.png").is_file()


def test_label_command(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    options = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    where = ["--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["label", "clip-cam", "--classes", "horse,person", *where, *options])
    assert result.exit_code == 0, result.output
    assert "labelled 4 of 5 (1 undecodable image)" in result.output
    neither = CliRunner().invoke(app, ["label", "clip-cam", *where])
    assert neither.exit_code == 2
    assert "--classes" in neither.output
    wrong = CliRunner().invoke(app, ["label", "clip-cam", "--classes", "horse", *where, "--set", "refin=crf"])
    assert wrong.exit_code == 2
    assert "refin" in wrong.output


def test_labelling_nothing_is_no_success(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    where = ["--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    options = [f"--set={key}={value}" for key, value in {**SETTINGS, "find_tags": "never"}.items()]
    done = CliRunner().invoke(app, ["label", "clip-cam", "--classes", "horse,person", *where, *options])
    assert done.exit_code == 3, done.output
    assert "nothing was labelled, mostly for no_classes → name what the photos show" in done.stderr
    assert "next, a segmenter" not in done.output


def test_label_shards_and_train_commands(tmp_path: Path, rows: list[shapes.Row]) -> None:
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(shapes.SPACE.model_dump(mode="json")))
    plan = tmp_path / "label.yaml"
    plan.write_text(yaml.safe_dump({"label_space": str(space), "samples": samples, "settings": SETTINGS}))
    labels = str(tmp_path / "labels")
    result = CliRunner().invoke(app, ["label", "shards", str(plan), "--out", labels])
    assert result.exit_code == 0, result.output
    recipe = tmp_path / "train.yaml"
    runtime = {"threads": 1, "progress": False}
    settings = {"segmenter": {"architecture": "fpn", "weights": "random"}, "augment": {"size": 32}, "steps": 1}
    recipe.write_text(
        yaml.safe_dump(
            {
                "label_space": str(space),
                "data": {"samples": samples, "labels": labels},
                "val": {"samples": samples},
                "settings": {**settings, "batch": 2, "runtime": runtime},
            }
        )
    )
    result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "miou:" in result.output
    assert (tmp_path / "run" / "artifact" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "evaluation" / "overlays.png").is_file()
    wrong = CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path / "run"), "--set", "trainer=nobody"])
    assert wrong.exit_code == 2
    assert "supervised" in wrong.output


def test_build_without_test_data_only_trains(tmp_path: Path, rows: list[shapes.Row]) -> None:
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    settings = {
        "model": TINY,
        "augment": {"size": 32},
        "steps": 1,
        "batch": 2,
        "warmup_steps": 0,
        "par_iterations": 0,
        "runtime": {"threads": 1, "progress": False},
    }
    train = TrainConfig(
        trainer="weclip", label_space=shapes.SPACE, data=DataConfig(samples=(samples,)), settings=settings
    )
    result = build_segmenter(BuildConfig(train=train), str(tmp_path / "run"))
    assert result.metrics == {}
    assert Path(result.artifact, "config.json").is_file()
