"""Every recipe of a published table, end to end on a miniature of the real layout, with random weights."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from maskmill.data_contracts import load_label_space
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.reproduce import load_recipe, recipe_names, reproduce
from maskmill.trainers.abd.config import LABELLED
from maskmill.vision.clip import load_clip
from tests.golden import bars, picture

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
SIDES = (64, 80)
IDS = ((8,), (3, 15), (12,), (8, 12))
QUICK = {"steps": 1, "batch": 2, "augment": {"size": 32}, "runtime": {"progress": False, "threads": 1, "device": "cpu"}}
NARROW = {"encoder": "resnet10t", "weights": "random", "options": {"width": 8}}
SMALL_NET = {"segmenter": {"architecture": "deeplabv3_mmseg", **NARROW}}
OWN_CRF = {"backend": "mean_field"}


def pair(folder: Path, name: str, ids: tuple[int, ...], images: str, masks: str) -> None:
    for kind in (images, masks):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(name, *SIDES)).save(folder / images / f"{name}.jpg")
    Image.fromarray(bars(ids, *SIDES)).save(folder / masks / f"{name}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC's devkit, COCO 2014 and 2017, and Dataset Diffusion's two sets, four pairs each."""
    root = tmp_path_factory.mktemp("data")
    voc = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(4)]
    for name, ids in zip(names, IDS, strict=True):
        pair(voc, name, ids, "JPEGImages", "SegmentationClassAug")
        pair(voc, name, ids, "JPEGImages", "SegmentationClass")
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train", "train_aug", "val"):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for year in ("2014", "2017"):
        for split in ("train", "val"):
            coco(root / "coco", f"{split}{year}")
    for kind, words in (
        ("voc", ("cat", "bird person", "dog", "cat dog")),
        ("coco", ("cat", "bird person", "dog", "cat dog")),
    ):
        folder = root / f"gen_{kind}"
        rows = []
        for index, (ids, prompt) in enumerate(zip(IDS, words, strict=True)):
            pair(folder, f"{index:04d}", tuple(COCO_IDS[i] for i in ids) if kind == "coco" else ids, "image", "mask")
            rows.append({"filename": f"{index:04d}.jpg", "caption": f"a photo of {prompt}", "class_prompt": prompt})
        (folder / f"{kind}_prompts.json").write_text(json.dumps(rows))
    (root / "voc_prompts.json").write_text(json.dumps(rows[:2]))
    return root


COCO_IDS = {8: 16, 3: 15, 15: 1, 12: 17}  # VOC's cat, bird, person and dog in COCO's contiguous ids


def coco(root: Path, split: str) -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, notes = [], []
    for index in range(2):
        name = f"COCO_{split}_{index:012d}.jpg"
        Image.fromarray(picture(name, *SIDES)).save(root / split / name)
        images.append({"id": index, "file_name": name, "height": SIDES[0], "width": SIDES[1]})
        notes.append(
            {
                "id": index,
                "image_id": index,
                "category_id": 17 + index,
                "iscrowd": 0,
                "area": 900,
                "bbox": [10, 10, 30, 30],
                "segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]],
            }
        )
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    whole = {"images": images, "annotations": notes, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))


SHOTS = {fold: (5 * fold + 1, 5 * fold + 2) for fold in range(4)}


@pytest.fixture(scope="module")
def pascal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC with PFENet's lists: two classes a fold, seven photos of the first and two of the second."""
    root = tmp_path_factory.mktemp("pascal")
    lines = []
    for first, second in SHOTS.values():
        for number, class_id in enumerate([first] * 7 + [second] * 2):
            name = f"2008_{class_id:03d}{number:03d}"
            pair(root, name, (class_id,), "JPEGImages", "SegmentationClassAug")
            lines.append(f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png")
    (root / "lists").mkdir()
    for split in ("voc_sbd_merge_noduplicate", "val"):
        (root / "lists" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def coco20i(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO 2014: two classes a fold, seven photos of the first and two of the second, the same in both splits."""
    root = tmp_path_factory.mktemp("coco20i")
    space = load_label_space("coco")
    ids = [c for fold in range(4) for c in [fold + 1] * 7 + [fold + 5] * 2]
    square = [[10, 10, 40, 10, 40, 40, 10, 40]]
    for split in ("train2014", "val2014"):
        images, notes = [], []
        for number, class_id in enumerate(ids):
            name = f"COCO_{split}_{number:012d}.jpg"
            (root / split).mkdir(exist_ok=True)
            Image.fromarray(picture(name, *SIDES)).save(root / split / name)
            images.append({"id": number, "file_name": name, "height": SIDES[0], "width": SIDES[1]})
            own = {"id": number, "image_id": number, "category_id": class_id, "iscrowd": 0, "segmentation": square}
            notes.append({**own, "area": 900, "bbox": [10, 10, 30, 30]})
        categories = [{"id": i, "name": space.by_id[i].name} for i in sorted(set(ids))]
        whole = {"images": images, "annotations": notes, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scl-coco20i", "pi-clip-coco20i"])
def test_coco20i_over_four_folds(name: str, coco20i: Path, clip: str, tmp_path: Path) -> None:
    """Interleaved folds; a row a fold, shots and class."""
    given = {"data": str(coco20i), **OTHERS[name]}
    recipe = load_recipe(name, {**given, "clip": clip} if name == "pi-clip-coco20i" else given, str(tmp_path))
    found = reproduce(recipe)
    space = load_label_space("coco")
    for fold in range(4):
        assert set(found[f"f{fold}_one"]["iou"]) == {space.by_id[i].name for i in (fold + 1, fold + 5)}
        assert set(found[f"f{fold}_five"]["iou"]) == {space.by_id[fold + 1].name}, "too few photos of the other"
    rows = {row["row"]: row["ours"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert {f"{one.name}, 1-shot" for one in space.classes} <= set(rows)
    assert rows["toothbrush, 1-shot"] is None
    assert rows["bicycle, 1-shot"] == 100 * found["f1_one"]["iou"]["bicycle"]


@pytest.fixture(scope="module")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of all labelled and of two other patients, volumes of two tested ones and of a learnt one."""
    root = tmp_path_factory.mktemp("acdc")
    (root / "data" / "slices").mkdir(parents=True)

    def write(path: Path, names: list[str]) -> None:
        images = np.stack([picture(name, 40, 36)[..., 0].astype(np.float32) / 255 for name in names])
        labels = np.stack([bars((1, 2, 3), 40, 36) for _ in names])
        labels[labels == 255] = 0
        with h5py.File(path, "w") as file:
            file["image"], file["label"] = (images[0], labels[0]) if len(names) == 1 else (images, labels)

    for patient in (*LABELLED[7], "patient005", "patient006"):
        name = f"{patient}_frame01"
        write(root / "data" / "slices" / f"{name}_slice_1.h5", [name])
    for patient in ("patient001", "patient007", "patient002", "patient099"):
        write(root / "data" / f"{patient}_frame01.h5", [f"{patient} {i}" for i in range(3)])
    return root


def test_promise12_over_cases(tmp_path: Path) -> None:
    """Seven labelled cases and one that is not, one to validate and two to test."""
    itk: Any = pytest.importorskip("SimpleITK")
    for number in (*range(8), 35, 40, 41):
        stack = np.stack([picture(f"{number} {i}", 24, 20)[..., 0] for i in range(2)]).astype(np.int16)
        label = np.stack([(bars((1,), 24, 20) == 1).astype(np.uint8)] * 2)
        for suffix, values in (("", stack), ("_segmentation", label)):
            itk.WriteImage(itk.GetImageFromArray(values), str(tmp_path / f"Case{number:02d}{suffix}.mhd"))
    recipe = load_recipe("abd-promise12", {"data": str(tmp_path), **OTHERS["abd-promise12"]}, str(tmp_path / "out"))
    found = reproduce(recipe)
    assert found["ct_7"]["volumes"] == 2
    rows = {row["row"]: row["ours"] for row in json.loads((tmp_path / "out" / "table.json").read_text())["rows"]}
    assert rows["ABD (Cross Teaching), 7 cases, Dice"] == 100 * found["ct_7"]["dice"]
    metrics = json.loads((tmp_path / "out" / "ct_7" / "artifact" / "metrics.json").read_text())
    assert 0 <= metrics["dice"] <= 1
    assert metrics["labelled"] == 14
    assert metrics["unlabelled"] == 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weight file for the small CLIP."""
    path = str(tmp_path_factory.mktemp("clip") / "ViT-B-16.safetensors")
    save_file({k: v.clone() for k, v in load_clip(TINY).model.state_dict().items()}, path)
    return path


def small_clip(path: str) -> dict[str, Any]:
    return {f"{path}.model": TINY}


def weclip_on(step: str) -> dict[str, Any]:
    settings = {
        **{f"steps.{step}.config.settings.{key}": value for key, value in QUICK.items()},
        **small_clip(f"steps.{step}.config.settings"),
        f"steps.{step}.config.settings.warmup_steps": 0,
        f"steps.{step}.config.settings.par_iterations": 1,
        f"steps.{step}.config.settings.rfm_start": 0,
        f"steps.{step}.config.settings.test_crf": False,
        f"steps.{step}.config.settings.test_size": 64,
    }
    return {**settings, "steps.val.config.crf.backend": "mean_field"}


def sds_on(step: str) -> dict[str, Any]:
    downstream = {f"steps.{step}.config.downstream.settings.{k}": v for k, v in {**QUICK, **SMALL_NET}.items()}
    score = {f"steps.{step}.config.score.crf": OWN_CRF, **small_clip(f"steps.{step}.config.score")}
    score |= {f"steps.{step}.config.select.pcs_tau": None}  # four pictures, and a CLIP that has learnt nothing
    return {**downstream, **score}


LABELS = {
    key: value
    for step in ("maps", "crf", "band")
    for key, value in {
        **small_clip(f"steps.{step}.config.settings"),
        f"steps.{step}.config.settings.crf": OWN_CRF,
    }.items()
}
GENERATE = {
    "steps.make.config.generate.generator": {"model": "starter", "steps": 2, "batch_size": 2, "device": "cpu"},
    "steps.make.config.score": {"preset": "starter", "model": TINY, "image_side": 64, "refine": "none"},
    **{f"steps.make.config.downstream.settings.{k}": v for k, v in {**QUICK, **SMALL_NET}.items()},
}
FEW_SHOT = {
    **QUICK,
    "augment": {"size": 65},
    "size": 65,
    "encoder": "resnet10t",
    "width": 16,
    "test_episodes": 3,
    "test_seeds": [1, 2],
    "episodes.min_pixels": 0,
}
SCL = {f"steps.f{f}_train.config.settings.{k}": v for f in range(4) for k, v in {**FEW_SHOT, "scales": [9, 5]}.items()}
PI_CLIP = {
    f"steps.f{f}_{shots}_train.config.settings.{key}": value
    for f in range(4)
    for shots in ("one", "five")
    for key, value in {**FEW_SHOT, "priors.model": TINY, "priors.match_side": 64}.items()
} | {
    f"steps.f{f}_base.config.settings.{key}": value
    for f in range(4)
    for key, value in {**QUICK, "augment": {"size": 65}, "encoder": "resnet10t", "width": 16}.items()
}
SWIN = {"size": 32, "width": 12, "heads": [1, 2, 4, 8], "window": 4}
PROMISE12 = {
    f"steps.ct_7_train.config.settings.{key}": value
    for key, value in {**QUICK, "unlabelled_batch": 2, "partner.options": SWIN}.items()
}
ABD = {
    f"steps.{host}_{k}_train.config.settings.{key}": value
    for host in ("ct", "bcp")
    for k in (3, 7)
    for key, value in {
        **QUICK,
        "unlabelled_batch": 2,
        **({"partner.options": SWIN} if host == "ct" else {}),
    }.items()
}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "sds-voc": ("", {**sds_on("curate"), "weights": "random"}),
    "sds-coco": ("", {**sds_on("curate"), "weights": "random"}),
    "weclip-voc": ("VOCdevkit/VOC2012", weclip_on("train")),
    "weclip-coco": ("coco", weclip_on("train")),
    "clip-es-voc": ("VOCdevkit/VOC2012", LABELS),
    "dataset-diffusion-voc": ("", {**GENERATE, "generator": "starter", "weights": "random"}),
}
OTHERS: dict[str, dict[str, Any]] = {
    "scl-pascal5i": {**SCL, "weights": "random"},
    "pi-clip-pascal5i": {**PI_CLIP, "weights": "random"},
    "scl-coco20i": {**SCL, "weights": "random"},
    "pi-clip-coco20i": {**PI_CLIP, "weights": "random"},
    "abd-acdc": {**ABD, "partner": "random"},
    "abd-promise12": {**PROMISE12, "partner": "random"},
}


def test_there_is_a_test_for_every_recipe() -> None:
    assert set(recipe_names()) >= {*RECIPES, *OTHERS}


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_runs_on_a_miniature(name: str, data: Path, clip: str, tmp_path: Path) -> None:
    place, changes = RECIPES[name]
    given: dict[str, Any] = {"data": str(data / place), **changes}
    if name.startswith("sds"):
        given["clip"] = clip
    given.setdefault("weights", clip)
    recipe = load_recipe(name, given, str(tmp_path))
    found = reproduce(recipe)
    table = json.loads((tmp_path / "table.json").read_text())
    measured = [row for row in table["rows"] if row["ours"] is not None]
    assert len(measured) == len(recipe.rows), table["rows"]
    assert all(0 <= row["ours"] <= 100 for row in measured)
    text = (tmp_path / "table.md").read_text()
    assert all(row.row in text for row in recipe.rows)
    assert all(deviation in text for deviation in recipe.deviations)
    if name == "clip-es-voc":  # cheap enough to ask for again: nothing is done twice, and the table is the same
        assert reproduce(recipe) == found


@pytest.mark.parametrize("name", ["scl-pascal5i", "abd-acdc", pytest.param("pi-clip-pascal5i", marks=pytest.mark.slow)])
def test_a_table_over_folds_and_volumes(name: str, pascal: Path, acdc: Path, clip: str, tmp_path: Path) -> None:
    """Rows that are means of steps, classes of a fold, distances as they are."""
    given = {"data": str(acdc if name == "abd-acdc" else pascal), **OTHERS[name]}
    recipe = load_recipe(name, {**given, "clip": clip} if name == "pi-clip-pascal5i" else given, str(tmp_path))
    found = reproduce(recipe)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    by_name = {row["row"]: row["ours"] for row in rows}
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {row.row} |" in text for row in recipe.rows)
    if name == "abd-acdc":
        assert all(value is not None for value in by_name.values()), by_name
        assert all(one["volumes"] == 2 for step, one in found.items() if step in ("ct_3", "ct_7", "bcp_3", "bcp_7"))
        assert by_name["ABD (BCP), 7 patients, ASD"] == found["bcp_7"]["asd_voxels"]
        assert by_name["ABD (BCP), 7 patients, Dice"] == 100 * found["bcp_7"]["dice"]
        return
    missing = {row for row, value in by_name.items() if value is None}
    drawn = {f"{load_label_space('voc').by_id[i].name}, 1-shot" for pair_ in SHOTS.values() for i in pair_}
    assert missing == {row for row in by_name if row.endswith(", 1-shot")} - drawn, "classes that no photo shows"
    paper = "SCL on PFENet" if name == "scl-pascal5i" else "PI-CLIP on HDMNet"
    for shots, word in (("1-shot", "one"), ("5-shot", "five")):
        folds = [by_name[f"{paper}, {shots}, fold {f}, mIoU"] for f in range(4)]
        assert folds == [100 * found[f"f{f}_{word}"]["miou"] for f in range(4)]
        assert by_name[f"{paper}, {shots}, mean mIoU"] == pytest.approx(sum(folds) / 4)
    assert set(found["f0_five"]["iou"]) == {"aeroplane"}, "the other class has too few photos for five shots"
    assert len(found["f0_one"]["seeds"]) == 2


def test_a_checkpoint_takes_the_place_of_training(data: Path, clip: str, tmp_path: Path) -> None:
    from maskmill.pipelines.run.reproduce import DOERS, RecipeStep

    step = RecipeStep(
        does="train",
        config={"trainer": "weclip", "label_space": "voc", "data": {"samples": "none"}, "settings": {"model": TINY}},
        checkpoint=str(tmp_path / "none.pth"),
        out=str(tmp_path),
    )
    with pytest.raises(ValueError, match=r"none\.pth'?: expected a weight file"):
        DOERS["train"](step, "test")


def test_what_is_not_given_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"weclip-voc: say --set data=… --set weights=….*SegmentationClassAug"):
        load_recipe("weclip-voc", {}, "out").filled()
    with pytest.raises(ConfigError, match="no such config file"):
        load_recipe("weclip-vok", {}, "out")


def test_a_parameter_may_name_others_wherever_they_stand(tmp_path: Path) -> None:
    recipe = load_recipe("a2gnn-voc", {"data": "D", "weights": "W.pth"}, str(tmp_path))
    filled = json.dumps({name: step.model_dump() for name, step in recipe.filled().items()})
    assert '"weights": "W.pth"' in filled
    assert "D/Annotations" in filled
    assert "{" not in "".join(part for part in filled.split('"') if "weights" in part or "Annotations" in part)


def test_the_list_says_what_each_needs() -> None:
    done = CliRunner().invoke(app, ["reproduce", "--list", "--json"])
    assert done.exit_code == 0, done.output
    needs = json.loads(done.stdout)
    assert set(needs) >= {*RECIPES, *OTHERS}
    assert all(entry["gpu_gb"] > 0 and entry["hours"] > 0 for entry in needs.values())
    assert "data" in needs["weclip-voc"]


def test_published_figures_have_a_source() -> None:
    for name in recipe_names():
        rows = load_recipe(name, {}, "out").rows
        assert all(row.source for row in rows if row.published is not None), name
        assert np.isfinite([row.published for row in rows if row.published is not None]).all()
