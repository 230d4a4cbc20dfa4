"""`maskmill verify` sees one flipped bit in each kind of file, files that are gone, and shards that were swapped."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import list_shards
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.verify import verify
from maskmill.pipelines.weak.label_photos import label_photos
from tests.pipelines.ingest_sets import make_folder, put

TINY = {"model": str(Path(__file__).parents[1] / "data/tiny_clip_timm"), "image_side": 64, "refine": "none"}
FORMATS = ("voc", "coco", "yolo", "webdataset", "hf", "fiftyone")
LOGS = {".lock", "metrics.jsonl", "timings.json"}


def config_at(tmp_path: Path) -> RunConfig:
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "name": "x",
                "run_dir": str(tmp_path / "run"),
                "shard_size": 2,
                "label_space": "voc",
                "source": {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1},
                "score": TINY,
                "select": {"min_score": None},
                "downstream": {
                    "subsets": ["kept"],
                    "settings": {
                        "steps": 1,
                        "batch": 2,
                        "precision": "fp32",
                        "segmenter": {"architecture": "fpn", "weights": "random"},
                        "augment": {"size": 32, "fit": "long"},
                        "runtime": {"threads": 1, "progress": False},
                    },
                    "test": {"kind": "folder", "root": str(tmp_path / "set")},
                },
                "export": [{"format": name} for name in FORMATS],
            }
        )
    )
    return load_run_config(str(tmp_path / "c.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    tmp_path = tmp_path_factory.mktemp("verify")
    make_folder(tmp_path / "set", list("abcd"))
    put(tmp_path / "set/images/broken.jpg", b"no picture")
    config = config_at(tmp_path)
    run(config)
    return config


def paths_of(config: RunConfig) -> list[Path]:
    files = (p for p in Path(config.run_dir).rglob("*") if p.is_file() and p.name not in LOGS)
    return sorted(p for p in files if "cache" not in p.parts)


def flip(path: Path, position: int, bit: int) -> bytes:
    """Flip a bit and keep the time, as a disk that rots; returns what was there."""
    data, stat = path.read_bytes(), path.stat()
    changed = bytearray(data)
    changed[position % len(data)] ^= 1 << bit
    path.write_bytes(bytes(changed))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return data


def restore(path: Path, data: bytes) -> None:
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_whole_run_is_whole_and_no_file_goes_unseen(finished: RunConfig) -> None:
    found = verify(finished.run_dir)
    assert found.faults == ()
    assert found.without_hashes == ()
    assert {f"{finished.run_dir}/{path}" for path in found.verified} == {str(p) for p in paths_of(finished)}
    assert run(finished).idle
    kinds = {p.name for p in paths_of(finished)}
    assert {"config.json", "manifest.json", "ledger.json", "stages.json", "model.safetensors", "overlays.png"} <= kinds


def test_one_flipped_bit_is_seen_in_each_file(finished: RunConfig) -> None:
    rng = np.random.default_rng(0)
    for path in paths_of(finished):
        size = path.stat().st_size
        for position in {0, size - 1, *rng.integers(0, size, 2).tolist()}:
            before = flip(path, position, int(rng.integers(0, 8)))
            faults = verify(finished.run_dir).faults
            restore(path, before)
            assert faults, f"{path} byte {position} of {size}"
            name = os.path.relpath(path, finished.run_dir)
            assert any(fault.path == name for fault in faults) or path.name == "manifest.json", (name, faults)
    assert verify(finished.run_dir).faults == ()


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_alone_can_be_verified(finished: RunConfig, tmp_path: Path, name: str) -> None:
    shutil.copytree(f"{finished.run_dir}/export/{name}", tmp_path / "export")
    assert verify(str(tmp_path / "export")).faults == ()
    largest = max((p for p in (tmp_path / "export").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    flip(largest, largest.stat().st_size // 2, 0)
    (fault,) = verify(str(tmp_path / "export")).faults
    assert fault.path == str(largest.relative_to(tmp_path / "export"))


def test_what_is_gone_or_swapped_is_missed(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "run")
    first, second = list_shards(f"{tmp_path}/run/samples")[:2]
    shutil.copy(first, tmp_path / "x")
    shutil.copy(second, first)
    shutil.copy(tmp_path / "x", second)
    os.unlink(tmp_path / "run/ledger.json")
    mask = next((tmp_path / "run/export/voc").rglob("SegmentationClass/*.png"))
    mask.unlink()
    found = {fault.path for fault in verify(f"{tmp_path}/run").faults}
    assert {"samples/shard-00000.parquet", "samples/shard-00001.parquet", "ledger.json"} <= found
    assert str(mask.relative_to(tmp_path / "run")) in found


@pytest.mark.parametrize("damage", ["gone", "overwritten", "cut"])
@pytest.mark.parametrize(
    "pattern", ["export/voc/**/SegmentationClass/*.png", "export/coco/**/*.json", "report/index.html"]
)
def test_a_damaged_output_is_made_again(finished: RunConfig, tmp_path: Path, damage: str, pattern: str) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "run")
    config = finished.model_copy(update={"run_dir": str(tmp_path / "run")})
    run(config)
    path = next((tmp_path / "run").glob(pattern))
    before = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(before[: len(before) // 2])
    else:
        path.write_bytes(bytes(reversed(before)))
    report = run(config)
    assert {step.name for step in report.steps if step.written} == {"report" if "report" in pattern else "export"}
    assert path.read_bytes() == before
    assert run(config).idle
    assert verify(f"{tmp_path}/run").faults == ()


def test_the_command_ends_with_1_and_names_the_file(finished: RunConfig) -> None:
    assert CliRunner().invoke(app, ["verify", finished.run_dir]).exit_code == 0
    path = Path(list_shards(f"{finished.run_dir}/scores")[0])
    before = flip(path, 40, 1)
    result = CliRunner().invoke(app, ["verify", finished.run_dir, "--json"])
    restore(path, before)
    assert result.exit_code == 1
    assert "scores/shard-00000.parquet" in result.stderr
    assert len(json.loads(result.stdout)["faults"]) == 1
    assert CliRunner().invoke(app, ["verify", f"{finished.run_dir}/nothing"]).exit_code == 2


# What other commands write


@pytest.fixture(scope="module")
def others(finished: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that label, train, evaluate, predict and push left, by command."""
    root = tmp_path_factory.mktemp("others")
    run_dir = Path(finished.run_dir)
    artifact = str(next(run_dir.rglob("artifact")))
    settings = {"model": str(Path(TINY["model"]).with_name("tiny_clip")), "image_side": 64, "par_iterations": 1}
    label_config = root / "label.yaml"
    given = {"labeler": "clip_cam", "samples": f"{run_dir}/samples", "settings": settings}
    label_config.write_text(json.dumps(given))
    images = str(run_dir.parent / "set/images")
    for words in (
        ["label", "shards", str(label_config), "--out", f"{root}/label"],
        ["evaluate", artifact, "--samples", f"{run_dir}/samples", "--out", f"{root}/evaluate"],
        ["predict", artifact, "--images", images, "--out", f"{root}/predict"],
        ["push", f"{run_dir}/export/voc", f"{root}/push"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    label_photos(images, f"{root}/photos", finished.space, settings=settings)
    return {name: root / name for name in ("label", "evaluate", "predict", "push", "photos")}


@pytest.mark.parametrize("name", ["label", "evaluate", "predict", "push", "photos"])
def test_one_flipped_bit_is_seen_in_each_file_of_other_commands(others: dict[str, Path], name: str) -> None:
    folder = others[name]
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    whole = verify(str(folder))
    assert (whole.faults, whole.without_hashes) == ((), ())
    assert {f"{folder}/{path}" for path in whole.verified} == {str(path) for path in paths}
    for number, path in enumerate(paths):
        before = flip(path, number * 7919, number % 8)
        faults = verify(str(folder)).faults
        restore(path, before)
        assert any(f"{folder}/{fault.path}" == str(path) for fault in faults) or path.suffix == ".json", (path, faults)
        assert faults
    assert verify(str(folder)).faults == ()


def test_a_folder_of_others_is_not_called_whole(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"theirs")
    with pytest.raises(FileNotFoundError, match="found other files alone"):
        verify(str(tmp_path))
