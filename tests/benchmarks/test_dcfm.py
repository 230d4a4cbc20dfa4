"""The co-saliency benchmark on a tiny set of the same layout: names, split, resume, missing parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks.dcfm as bench
from benchmarks.common import Options, is_train_key
from maskmill.data_contracts import encode_image, encode_mask
from maskmill.trainers.engine import Samples

torch.set_num_threads(1)

TINY = {
    "steps": 1,
    "batch": 1,
    "members": 2,
    "encoder_weights": "random",
    "feature_levels": (1, 2, 3),
    "trained_layers": (),
    "channels": 8,
    "width": 8,
    "augment": {"size": 32, "fit": "squash"},
}
TRAINED = [name for name in map(str, range(20)) if is_train_key(name)][:2]
TESTED = [name for name in map(str, range(20)) if not is_train_key(name)][:2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four groups of two photos; the first photo is in all of them, and one group lacks a file."""
    monkeypatch.setitem(bench.SIZES, "small", bench.Size(2, 2, 2, 2, TINY, 1))
    monkeypatch.setitem(bench.SMALL, "consensus_size", 32)
    monkeypatch.setitem(bench.SMALL, "consensus_layers", ("blocks.4",))
    monkeypatch.setattr(bench, "SIDE", 32)
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "set"
    folder.mkdir(parents=True)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 8:25] = 4
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encode_image(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)))
        (folder / f"{number}_mask.png").write_bytes(encode_mask(mask))

    def item(name: object) -> dict[str, object]:
        return {"image": f"set/{name}.png", "mask": f"set/{name}_mask.png", "values": [4]}

    groups = [{"name": n, "items": [item(0), item(i + 1)]} for i, n in enumerate([*TRAINED, *TESTED])]
    groups[-1]["source"] = "ccp"  # type: ignore[assignment]
    groups[0]["items"] = [*groups[0]["items"], item("gone")]  # type: ignore[misc]
    (tmp_path / "data" / "co_groups").mkdir()
    (tmp_path / "data" / "co_groups" / "groups.json").write_text(json.dumps({"groups": groups}))
    return tmp_path


def options(root: Path, data: str = "data", test_data: Path | None = None) -> Options:
    (root / data).mkdir(exist_ok=True)
    return Options("dcfm", root / data, test_data, (0,), "small", root / "out.json")


def test_arms_and_metrics_carry_the_issues_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run(options(root))
    metrics = json.loads((root / "out.json").read_text())["metrics"]
    assert list(metrics) == ["plain", "plain+edges", "ours", "dpg", "dpg+scl", "dcfm", "dcfm_alone"]
    assert metrics["dcfm"] != metrics["dcfm_alone"], "a group is worth something, or something is wrong"
    assert metrics["ours"] != metrics["plain"] != metrics["plain+edges"] != metrics["ours"]
    worlds = ("groups", "garments", "distractors", "seen")
    names = {f"{m}@{w}" for m in ("s", "max_e", "max_f", "mae") for w in worlds}
    assert all(set(found) == names for found in metrics.values())
    assert (root / "out.png").is_file()
    assert (root / "out.curves.png").is_file()
    assert not (root / "out.json.work").exists()
    said = capsys.readouterr().out
    assert "groups: 1 items left out" in said
    assert "± is the smallest that can be seen" in said
    assert "learn from 2 images, test on 4" in said, "the photo that tested groups share must not be learnt from"


def test_with_test_data_all_of_data_may_be_learnt_from(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = root / "other"
    (root / "data").rename(other)
    world = bench.build_world(options(root, "empty", other), bench.SIZES["small"], root / "work")
    assert "no co_groups/groups.json there" in capsys.readouterr().out
    assert len(world.tested["groups"].ids or ()) == 6
    assert len(world.tested["garments"].ids or ()) == 2
    assert len(world.train) == 4, "drawn groups alone are left to learn from"
    world = bench.build_world(options(root, "other", root / "empty"), bench.SIZES["small"], root / "again")
    assert set(world.tested) == {"distractors", "seen"}
    assert len(world.train) == 4 + 8


def test_images_alone_come_in_the_order_of_their_groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the units of `dcfm_alone` are paired with other images."""
    world = bench.build_world(options(root), bench.SIZES["small"], root / "work")
    seen: list[list[str]] = []

    class Nothing:
        def compute(self) -> dict[str, float]:
            return dict.fromkeys(bench.MEASURES, 0.0)

        def each(self) -> dict[str, list[float]]:
            return {}

    def noted(predictor: object, samples: Samples) -> Nothing:
        alone = [[place] for place, info in enumerate(samples.infos) if info.group is None]
        seen.append([samples.ids[place] for places in [*samples.groups.values(), *alone] for place in places])
        return Nothing()

    monkeypatch.setattr(bench, "group_metrics", noted)
    for alone in (False, True):
        bench.measure(world, None, root / "cache", alone=alone)  # type: ignore[arg-type]
    assert seen[: len(world.tested)] == seen[len(world.tested) :]
    assert len(seen) == 2 * len(world.tested)
