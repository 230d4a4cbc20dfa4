"""The recipes of A2GNN and FTMU on miniatures of VOC and DAVIS, with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import (
    PSEUDO_LABEL,
    SAMPLE,
    ContractError,
    decode_mask,
    encode_mask,
    list_shards,
    load_label_space,
    read_shard,
)
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.davis import DavisSource
from maskmill.pipelines.run.reproduce import DOERS, load_recipe, reproduce
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.vision.video import score_clip
from tests.golden import bars
from tests.pipelines.test_reproduce import IDS, OWN_CRF, QUICK, SIDES, SMALL_NET, TINY, clip, pair
from tests.trainers.clips import BLUE, RED, draw

__all__ = ["clip"]  # a fixture
NETWORK = {"encoder": "lcnet_035", "weights": "random", "width": 16, "prototypes": 4, "descriptor": 8}
GRAPH = {"model": TINY, "image_side": 64, "temperature": 0.05}
SMALL_A2GNN = {
    **{f"steps.{step}.config.settings.seeds.cam.{k}": v for step in ("seeds", "labels") for k, v in GRAPH.items()},
    **{f"steps.labels.config.settings.{k}": v for k, v in {"steps": [2, 1], "hidden": 8, "loss_stride": 8}.items()},
    "steps.labels.config.settings.crf": OWN_CRF,
    **{f"steps.affinity.config.settings.{k}": v for k, v in {**QUICK, "widths": [4, 4, 4], "radius": 2}.items()},
    "steps.affinity.config.settings.encoder": "resnet18",
    **{f"steps.segmenter.config.settings.{k}": v for k, v in {**QUICK, **SMALL_NET}.items()},
    "steps.val.config.crf": OWN_CRF,
}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's devkit: four photos with masks and boxes."""
    root = tmp_path_factory.mktemp("data") / "VOCdevkit" / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(4)]
    for name, ids in zip(names, IDS, strict=True):
        pair(root, name, ids, "JPEGImages", "SegmentationClassAug")
        objects(root, name, ids)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train_aug", "val"):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def objects(voc: Path, name: str, ids: tuple[int, ...]) -> None:
    """VOC's XML with the tight box of each bar: one-based, the last pixel included."""
    mask, names = bars(ids, *SIDES), {c.id: c.name for c in load_label_space("voc").classes}
    text = ""
    for class_id in ids:
        rows, columns = np.nonzero(mask == class_id)
        corners = zip(
            ("xmin", "ymin", "xmax", "ymax"), (columns.min(), rows.min(), columns.max(), rows.max()), strict=True
        )
        box = "".join(f"<{side}>{value + 1}</{side}>" for side, value in corners)
        text += f"<object><name>{names[class_id]}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
    (voc / "Annotations").mkdir(exist_ok=True)
    (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DAVIS 2017's layout: two sequences to train on and one to test, two squares each; a third lies in no list."""
    root = tmp_path_factory.mktemp("davis") / "DAVIS"
    (root / "ImageSets" / "2017").mkdir(parents=True)
    for split, names in (("train", ("bear", "boat")), ("val", ("cows",))):
        (root / "ImageSets" / "2017" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for number, name in enumerate(("bear", "boat", "cows", "other")):
        folders = [root / kind / "480p" / name for kind in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        for frame in range(4):
            image = draw([(10 + 2 * frame, 8 + 4 * frame + number, 20, RED), (40, 64 - 3 * frame, 14, BLUE)])
            mask = ((image == RED).all(-1) + 2 * (image == BLUE).all(-1)).astype(np.uint8)
            Image.fromarray(image).save(folders[0] / f"{frame:05d}.jpg", quality=95)
            (folders[1] / f"{frame:05d}.png").write_bytes(encode_mask(mask))
    return root


@pytest.fixture(scope="module")
def proposals(davis: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small segmenter that has hardly learnt: a Mask R-CNN takes too long on CPUs."""
    out = tmp_path_factory.mktemp("proposals")
    source = DavisSource(root=str(davis))
    map_units(ingest_stage(source, load_label_space("objects")), ingest_units(source, str(out), 50))
    settings = {**QUICK, "network": NETWORK, "crops": {"side": 32}, "detect": {"side": 64, "full_side": 64}}
    settings.pop("augment")
    data = {"samples": f"{out}/samples"}
    config = TrainConfig.model_validate(
        {"trainer": "proposals", "label_space": "objects", "data": data, "settings": settings}
    )
    return train(config, str(out / "run"), str(out / "artifact"))


def test_boxes_become_labels_and_a_segmenter(voc: Path, clip: str, tmp_path: Path) -> None:
    given = {"data": str(voc), "weights": "random", "clip": clip, **SMALL_A2GNN}
    recipe = load_recipe("a2gnn-voc", given, str(tmp_path))
    found = reproduce(recipe)
    assert found["boxes"] == {"boxed": 4, "seeded": 0, "photos": 4}
    assert found["labelled"]["images"] == 4
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(rows) == 3
    assert all(row["ours"] is not None and 0 <= row["ours"] <= 100 for row in rows)
    text = (tmp_path / "table.md").read_text()
    assert all(deviation in text for deviation in recipe.deviations)
    assert "| A2GNN from boxes, VOC val | 76.5 (abstract) |" in text


SMALL_FTMU = {"steps": 1, "batch": 2, "length": 3, "hidden": [8], "trunk": "resnet18", "runtime": QUICK["runtime"]}


@pytest.mark.parametrize("preset", ["faithful", "released"])
def test_clips_are_tracked_and_judged_as_the_official_toolkit_does(
    davis: Path, proposals: str, tmp_path: Path, preset: str
) -> None:
    given = {"data": str(davis), "weights": "random", "trunk": "random", "segmenter": proposals, "preset": preset}
    changes = {f"steps.agent.config.settings.{key}": value for key, value in SMALL_FTMU.items()}
    recipe = load_recipe("ftmu-davis2017", {**given, **changes}, str(tmp_path))
    found = reproduce(recipe)
    groups = {
        row["group"]
        for path in list_shards(f"{tmp_path}/train/samples")
        for row in read_shard(path, SAMPLE, ["group"]).to_pylist()
    }
    assert {Path(group).name for group in groups} == {"bear", "boat"}, "the list alone"
    assert (found["val"]["sequences"], found["val"]["objects"]) == (1, 2)
    tree = tmp_path / "val" / "results"
    assert [p.relative_to(tree).as_posix() for p in sorted(tree.rglob("*.png"))] == [
        f"cows/{i:05d}.png" for i in range(4)
    ]
    maps = np.stack([np.asarray(Image.open(path)) for path in sorted((tree / "cows").iterdir())])
    assert Image.open(tree / "cows" / "00000.png").mode == "P"
    truth = np.stack([np.asarray(Image.open(p)) for p in sorted((davis / "Annotations/480p/cows").iterdir())])
    wanted = score_clip(maps, truth, [1, 2])
    assert found["val"]["j_mean"] == pytest.approx(wanted.j.mean())
    assert found["val"]["f_mean"] == pytest.approx(wanted.f.mean())
    assert found["val"]["jf_mean"] == pytest.approx((wanted.j.mean() + wanted.f.mean()) / 2)
    lines = (tmp_path / "val" / "per-sequence_results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["Sequence", "cows_1", "cows_2"]
    head = "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay"
    assert (tmp_path / "val" / "global_results.csv").read_text().splitlines()[0] == head
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(rows) == 7
    assert all(row["ours"] is not None for row in rows)
    assert "frames_per_second" in found["val"]
    again = reproduce(recipe)["val"]
    assert again == {key: value for key, value in found["val"].items() if key != "frames_per_second"}, (
        "not tracked anew"
    )


def test_a_sequence_that_is_not_there_is_named(davis: Path) -> None:
    (davis / "ImageSets/2017/gone.txt").write_text("bear\nzebra\n")
    source = DavisSource(root=str(davis), split="gone")
    with pytest.raises(ContractError, match=r"gone\.txt.*zebra"):
        list(source.entries())


def test_ready_made_seeds_are_taken_as_they_are(voc: Path, tmp_path: Path) -> None:
    """The release's seed maps with boxes: what is labelled `seeds` is the map itself."""
    (tmp_path / "given").mkdir()
    for name in sorted(p.stem for p in (voc / "JPEGImages").iterdir()):
        mask = np.array(Image.open(voc / "SegmentationClassAug" / f"{name}.png"))
        mask[::2] = 255
        Image.fromarray(mask).save(tmp_path / "given" / f"{name}.png")
    given = {"data": str(voc), "weights": "random", "seeds": str(tmp_path / "given"), "clip": "none"}
    steps = load_recipe("a2gnn-voc", given, str(tmp_path)).filled()
    counts = {}
    for name in ("train_data", "boxes", "seeds"):
        counts[name] = DOERS[steps[name].does](steps[name], name)
    assert counts["boxes"] == {"boxed": 4, "seeded": 4, "photos": 4}
    paths = {
        row["sample_id"]: Path(str(row["provenance"]["source_path"])).stem
        for path in list_shards(f"{tmp_path}/train/samples")
        for row in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist()
    }
    for path in list_shards(f"{tmp_path}/seeds"):
        for row in read_shard(path, PSEUDO_LABEL).to_pylist():
            wanted = np.array(Image.open(tmp_path / "given" / f"{paths[row['sample_id']]}.png"))
            np.testing.assert_array_equal(decode_mask(row["mask"]["bytes"]), wanted)
    small = np.zeros((8, 8), np.uint8)
    Image.fromarray(small).save(tmp_path / "given" / f"{next(iter(paths.values()))}.png")
    with pytest.raises(ValueError, match="expected seeds of 80x64, found 8x8"):
        DOERS["hints"](steps["boxes"], "boxes")
