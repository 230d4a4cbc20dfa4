"""Scores and labels of images in memory: the same numbers as the stages, whatever form the images come in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import maskmill as mm
from maskmill.data_contracts import PSEUDO_LABEL, LabelSpace, decode_mask, list_shards, load_label_space, read_shard
from maskmill.pipelines.stages.label import LabelConfig, label

DATA = Path(__file__).resolve().parent.parent / "data"
IMAGES = sorted((DATA / "photos" / "images").iterdir())
MASKS = sorted((DATA / "photos" / "masks").iterdir())
TINY = {"model": str(DATA / "tiny_clip_timm"), "image_side": 64, "refine": "none"}
CAM = {"model": str(DATA / "tiny_clip_timm"), "image_side": 96, "min_decided": 0.0, "refine": "none"}
NUMBERS = ("image_score", "asf", "pcs", "h_orig", "h_mix", "ignore_fraction")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mm.Run:
    folder = tmp_path_factory.mktemp("run")
    small: dict[str, Any] = {"label_space": "voc", "score": TINY, "export": []}
    return mm.run("folder", source={"root": DATA / "photos"}, run_dir=folder, **small)


def test_files_get_the_ids_and_scores_of_a_run(run: mm.Run) -> None:
    found = mm.score_pairs(IMAGES, MASKS, "voc", score=TINY)
    assert found["position"].to_list() == [0, 1, 2]
    assert found["name"].to_list() == [str(path) for path in IMAGES]
    columns = [name for name in run.scores.columns if name != "shard"]
    assert found.select(columns).sort("sample_id").equals(run.scores.select(columns).sort("sample_id"))


def forms(image: Path, mask: Path) -> list[tuple[Any, Any]]:
    """One pair in every form that is taken, without loss."""
    pixels, ids = np.asarray(Image.open(image)), np.asarray(Image.open(mask))
    rgba = np.dstack([pixels, np.full(ids.shape, 255, np.uint8)])
    return [
        (Image.fromarray(pixels), Image.open(mask)),
        (pixels, ids),
        (pixels[:, ::-1][:, ::-1], ids.astype(np.int64)),
        (rgba, Image.fromarray(ids)),
    ]


def test_pillow_images_and_arrays_score_alike() -> None:
    images, masks = zip(*forms(IMAGES[1], MASKS[1]), strict=True)
    found = mm.score_pairs(images, masks, load_label_space("voc"), score=TINY)
    assert found["reason"].null_count() == 4
    assert len(set(found["sample_id"])) == 1
    for name in NUMBERS:
        assert len(set(found[name])) == 1, name
    assert found["name"].to_list() == ["image 0", "image 1", "image 2", "image 3"]


def test_names_are_ids_in_their_order_and_a_bool_mask_is_the_first() -> None:
    ids = np.asarray(Image.open(MASKS[1]))
    image = Image.open(IMAGES[1])
    found = mm.score_pairs([image, image], [ids == 8, (ids == 8) * 2], ["cat", "dog"], score=TINY)
    assert found["label_ids"].to_list() == [[1], [2]]
    assert found["reason"].null_count() == 2


def test_companions_and_batches_change_no_score() -> None:
    alone = mm.score_pairs([IMAGES[2]], [MASKS[2]], "voc", score=TINY)
    many = mm.score_pairs([IMAGES[0]] * 33 + [IMAGES[2]], [MASKS[0]] * 33 + [MASKS[2]], "voc", score=TINY)
    assert many[-1].select(NUMBERS).equals(alone.select(NUMBERS))


def test_bad_pairs_keep_their_place_and_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    good, ids = np.zeros((32, 32, 3), np.uint8), np.ones((32, 32), np.uint8)
    pairs: list[tuple[Any, Any, str, str]] = [
        (tmp_path / "none.jpg", ids, "missing_image", "none.jpg"),
        (tmp_path / "broken.jpg", ids, "undecodable_image", "complete image file"),
        (good, tmp_path / "none.png", "missing_mask", "none.png"),
        (good / 255.0, ids, "undecodable_image", "found float64 (32, 32, 3)"),
        (good.transpose(2, 0, 1), ids, "undecodable_image", "channels last"),
        (good, ids[:16], "size_mismatch", "32x32"),
        (good, ids * 7, "unknown_mask_id", "id 7"),
        (good, ids * 0, "empty_foreground", "foreground"),
        (good, ids.astype(np.float32), "wrong_mask_format", "argmax"),
        (good, ids.astype(np.int32) * 300, "wrong_mask_format", "300"),
        (good, good, "wrong_mask_format", "(32, 32, 3)"),
    ]
    images, masks, reasons, words = zip(*pairs, strict=True)
    found = mm.score_pairs([*images, IMAGES[1]], [*masks, np.asarray(Image.open(MASKS[1])) // 8], ["cat"], score=TINY)
    assert found["reason"].to_list()[:-1] == list(reasons)
    assert found["reason"][-1] is None
    assert found["asf"][-1] is not None
    for detail, word in zip(found["detail"], words, strict=False):
        assert word in detail
        assert "Fix: " in detail


def test_no_pairs_give_an_empty_frame_of_the_same_columns() -> None:
    some = mm.score_pairs([IMAGES[0]], [MASKS[0]], "voc", score=TINY)
    assert mm.score_pairs([], [], "voc", score=TINY).schema == some.schema


def test_what_cannot_be_meant_is_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="found 1 images and 2 masks"):
        mm.score_pairs([image], [image, image], ["cat"])
    for one in (image, str(IMAGES[0]), IMAGES[0], Image.open(IMAGES[0])):
        with pytest.raises(TypeError, match="expected a list"):
            mm.score_pairs(one, [image], ["cat"])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a list"):
            mm.label(one, classes=["cat"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one class"):
        mm.score_pairs([image], [image[..., 0]], [])
    with pytest.raises(FileNotFoundError, match=r"not one of: .*voc"):
        mm.score_pairs([image], [image[..., 0]], "cat")
    with pytest.raises(ValueError, match="presett"):
        mm.score_pairs([image], [image[..., 0]], ["cat"], score={"presett": "faithful"})
    with pytest.raises(ValueError, match=r"expected one of .*clip_cam"):
        mm.label([image], classes=["cat"], labeler="clip")
    with pytest.raises(ValueError, match="refin"):
        mm.label([image], classes=["cat"], settings={"refin": "crf"})
    with pytest.raises(ValueError, match=r"tags: expected one entry an image \(1\), found 2"):
        mm.label([image], classes=["cat"], tags=[["cat"], ["cat"]])
    with pytest.raises(ValueError, match="put brackets around it"):
        mm.label([image], classes=["cat"], tags=["cat"])
    with pytest.raises(KeyError, match="known: cat"):
        mm.label([image], classes=["cat"], tags=[["dog"]])


def test_labels_are_those_of_the_stage(run: mm.Run, tmp_path: Path) -> None:
    config = LabelConfig(samples=f"{run.path}/samples", settings=CAM)
    label(config, str(tmp_path))
    rows = [row for path in list_shards(str(tmp_path)) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
    by_id = {row["sample_id"]: decode_mask(row["mask"]["bytes"]) for row in rows}
    samples = sorted(run.samples.iter_rows(named=True), key=lambda row: row["provenance"]["source_path"])
    found = mm.label(IMAGES, classes="voc", settings=CAM, tags=[row["class_ids"] for row in samples])
    for row, answer in zip(samples, found, strict=True):
        assert answer.mask is not None
        assert np.array_equal(answer.mask, by_id[row["sample_id"]])
        assert answer.confidence is not None
        assert answer.confidence.shape == answer.mask.shape == (row["height"], row["width"])


def test_forms_of_one_image_are_labelled_alike_and_a_broken_one_abstains(tmp_path: Path) -> None:
    images = [image for image, _ in forms(IMAGES[1], MASKS[1])]
    found = mm.label([*images, tmp_path / "none.jpg"], classes=["cat"], settings=CAM, tags=[["cat"]] * 5)
    for answer in found[1:4]:
        assert np.array_equal(answer.mask, found[0].mask)
    assert found[4].mask is None
    assert found[4].reason == "missing_image"
    assert "none.jpg" in str(found[4].detail)


def test_boxes_scribbles_and_groups_reach_the_labeler(monkeypatch: pytest.MonkeyPatch) -> None:
    import maskmill.pairs as pairs

    seen: list[list[mm.PseudoLabel]] = []

    class Echo:
        def label(self, items: Any) -> Any:
            seen.append(list(items))
            return [mm.PseudoLabel(item.image[..., 0], item.image[..., 0]) for item in items]

    monkeypatch.setattr(pairs, "open_labeler", lambda name, options, space: Echo())
    image, stroke = np.zeros((6, 9, 3), np.uint8), np.full((6, 9), 255, np.uint8)
    space = LabelSpace.from_names(["cat", "dog"])
    hints: dict[str, Any] = {"boxes": [[(2, 1, 1, 4, 5)], []], "scribbles": [None, stroke], "groups": ["a", "a"]}
    answers = mm.label([image, image], classes=space, **hints)
    first, second = seen[0]
    assert [answer.mask.shape for answer in answers if answer.mask is not None] == [(6, 9), (6, 9)]
    assert first.boxes.tolist() == [[2, 1, 1, 4, 5]]
    assert (first.class_ids, second.class_ids) == ((2,), ())
    assert first.scribble is None
    assert np.array_equal(second.scribble, stroke)
    assert [(item.group, item.index) for item in (first, second)] == [("a", 0), ("a", 1)]
    mm.label([image] * 40, classes=space)
    assert [len(items) for items in seen[1:]] == [32, 8]
    mm.label([image] * 40, classes=space, groups=["a"] * 40)
    assert len(seen[-1]) == 40
