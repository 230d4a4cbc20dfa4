"""Strokes from files to WeakLabel shards: codings, ScribbleSup's XML, simulation, faults, resume; photos to masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskmill.data_contracts import (
    DECISION,
    IGNORE,
    WEAK_LABEL,
    ContractError,
    LabelSpace,
    Reason,
    Uint8Array,
    decode_mask,
    encode_image,
    encode_mask,
    load_label_space,
    read_shard,
)
from maskmill.pipelines.core.settings import load_settings
from maskmill.pipelines.core.stage import map_units, why_run
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.stages.label import LabelConfig
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.label_scribbles import label_scribbles
from maskmill.pipelines.weak.scribble_xml import SCRIBBLESUP, parse_scribble_xml, scribblesup_id
from maskmill.pipelines.weak.scribbles import (
    ScribbleConfig,
    read_scribbles,
    scribble_path,
    scribbles_stage,
    scribbles_units,
)
from maskmill.vision.scribbles import rasterise
from tests.trainers import shapes

CONFIGS = Path(__file__).parents[2] / "configs"
VOC = load_label_space("voc")
XML = """<annotation><size><width>{w}</width><height>40</height><depth>3</depth></size>
<polygon><tag>plane</tag><point><X>5</X><Y>5</Y></point><point><X>30</X><Y>{y}</Y></point></polygon>
<polygon><tag>background</tag><point><X>-9</X><Y>30</Y></point><point><X>90</X><Y>30</Y></point></polygon></annotation>"""


def save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def ingest(folder: Path, space: LabelSpace, count: int = 3, masks: bool = True) -> None:
    """Photos (and masks) under `folder`, as Sample shards of two in folder/run."""
    for number in range(count):
        image, mask = shapes.draw_scene(number)
        save(folder / f"images/a/{number}.png", encode_image(image))
        save(folder / f"masks/a/{number}.png", encode_mask(np.where(mask == IGNORE, 0, mask).astype(np.uint8)))
    source = FolderSource(root=str(folder), masks="masks" if masks else None)
    map_units(ingest_stage(source, space), ingest_units(source, str(folder / "run"), 2))


def config(folder: Path, space: LabelSpace, **changes: Any) -> ScribbleConfig:
    given = {"samples": str(folder / "run/samples"), "label_space": space, "root": str(folder), **changes}
    return ScribbleConfig.model_validate(given)


def rows(out: Path, kind: str = "weak") -> list[dict[str, Any]]:
    contract = WEAK_LABEL if kind == "weak" else DECISION
    return [r for path in sorted((out / kind).glob("*.parquet")) for r in read_shard(str(path), contract).to_pylist()]


def scribble_of(row: dict[str, Any]) -> Uint8Array:
    return decode_mask(row["scribble"]["bytes"])


@pytest.mark.parametrize(
    ("coding", "drawn", "expected"),
    [("plain", (0, 1, 255), (0, 1)), ("acdc", (0, 3, 4), (0, 3)), ("sduts", (2, 1, 0), (0, 1))],
)
def test_codings(tmp_path: Path, coding: str, drawn: tuple[int, int, int], expected: tuple[int, int]) -> None:
    ingest(tmp_path, shapes.SPACE, 1)
    scribble = np.full((48, 56), drawn[2], np.uint8)
    scribble[5, :9], scribble[20, 10:20] = drawn[0], drawn[1]
    save(tmp_path / "scribbles/a/0.png", encode_mask(scribble))
    assert read_scribbles(config(tmp_path, shapes.SPACE, coding=coding), str(tmp_path / "out")) == {"kept": 1}
    (row,) = rows(tmp_path / "out")
    found = scribble_of(row)
    assert (found[5, :9] == expected[0]).all()
    assert (found[20, 10:20] == expected[1]).all()
    assert (found == IGNORE).sum() == 48 * 56 - 19
    assert row["class_ids"] == [expected[1]]


def test_every_fault_has_its_reason_and_keeps_the_others(tmp_path: Path) -> None:
    ingest(tmp_path, shapes.SPACE, 6)
    good = np.full((48, 56), IGNORE, np.uint8)
    good[4, 4:9] = 2
    foreign = np.where(good == 2, 77, good).astype(np.uint8)
    for number, data in enumerate([good, good[:20], foreign, np.full_like(good, IGNORE)]):
        save(tmp_path / f"scribbles/a/{number}.png", encode_mask(data))
    save(tmp_path / "scribbles/a/4.png", b"no image")
    counts = read_scribbles(config(tmp_path, shapes.SPACE), str(tmp_path / "out"))
    assert counts == {
        "kept": 1,
        "size_mismatch": 1,
        "unknown_mask_id": 1,
        "empty_foreground": 1,
        "undecodable_mask": 1,
        "missing_mask": 1,
    }
    assert len(rows(tmp_path / "out")) == 1
    rejects = {row["source_path"]: row["detail"] for row in rows(tmp_path / "out", "rejects")}
    assert "do not resize them" in rejects["images/a/1.png"]
    assert len(rejects) == 5


def test_simulated_strokes_need_masks_and_depend_on_the_seed(tmp_path: Path) -> None:
    ingest(tmp_path, shapes.SPACE, 3)
    wanted = config(tmp_path, shapes.SPACE, kind="simulated", root="")
    assert read_scribbles(wanted, str(tmp_path / "a")) == {"kept": 3}
    assert read_scribbles(wanted.model_copy(update={"seed": 1}), str(tmp_path / "b")) == {"kept": 3}
    maps = [[scribble_of(r) for r in rows(tmp_path / name)] for name in ("a", "b")]
    assert any((x != y).any() for x, y in zip(*maps, strict=True))
    other = tmp_path / "other"
    ingest(other, shapes.SPACE, 1, masks=False)
    assert read_scribbles(config(other, shapes.SPACE, kind="simulated"), str(other / "out")) == {"missing_mask": 1}


def test_only_shards_whose_strokes_changed_are_read_again(tmp_path: Path) -> None:
    ingest(tmp_path, shapes.SPACE, 3)
    good = np.full((48, 56), IGNORE, np.uint8)
    good[4, 4:9] = 2
    for number in range(3):
        save(tmp_path / f"scribbles/a/{number}.png", encode_mask(good))
    wanted, out = config(tmp_path, shapes.SPACE), str(tmp_path / "out")
    read_scribbles(wanted, out)

    def due() -> list[bool]:
        return [why_run(scribbles_stage(wanted), unit) is not None for unit in scribbles_units(wanted, out)]

    assert due() == [False, False]
    good[10:20, 10] = 1
    save(tmp_path / "scribbles/a/2.png", encode_mask(good))
    assert due() == [False, True]


def test_scribble_paths_mirror_image_paths() -> None:
    wanted = config(Path("x"), VOC, suffix="_s", kind="xml")
    assert scribble_path(wanted, "images/a/b.jpg") == "scribbles/a/b_s.xml"
    assert scribble_path(wanted.model_copy(update={"images": "", "folder": ""}), "b.jpg") == "b_s.xml"


def test_scribblesup_xml_is_open_lines_with_the_ids_of_voc_by_order() -> None:
    size, strokes = parse_scribble_xml(XML.format(w=50, y=5).encode(), VOC)
    assert size == (40, 50)
    assert [s.class_id for s in strokes] == [1, 0]
    drawn = rasterise(strokes, *size, 1)
    assert (drawn[5, 5:31] == 1).all()
    assert (drawn[30] == 0).all(), "strokes that leave the image are clipped"
    assert set(np.unique(drawn).tolist()) == {0, 1, IGNORE}
    assert [scribblesup_id(word, VOC, "a") for word in SCRIBBLESUP] == list(range(21))
    assert scribblesup_id("dining table", VOC, "a") == 11


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<annotation>", Reason.BAD_ANNOTATION),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', Reason.BAD_ANNOTATION),
        (XML.format(w="wide", y=5).encode(), Reason.BAD_ANNOTATION),
        (XML.format(w=50, y="nan").encode(), Reason.BAD_ANNOTATION),
        (XML.format(w=50, y=5).replace("plane", "zeppelin").encode(), Reason.UNKNOWN_CLASS_NAME),
        (XML.format(w=50, y=5).replace("<point>", "<pt>").replace("</point>", "</pt>").encode(), Reason.BAD_ANNOTATION),
    ],
)
def test_broken_xml_is_refused(data: bytes, reason: Reason) -> None:
    with pytest.raises(ContractError) as caught:
        parse_scribble_xml(data, VOC)
    assert caught.value.problem.reason is reason


def test_xml_of_another_size_is_refused(tmp_path: Path) -> None:
    ingest(tmp_path, VOC, 1)
    save(tmp_path / "scribbles/a/0.xml", XML.format(w=50, y=5).encode())
    assert read_scribbles(config(tmp_path, VOC, kind="xml"), str(tmp_path / "out")) == {"size_mismatch": 1}


def test_photos_and_some_scribbles_to_masks_for_all(tmp_path: Path) -> None:
    for number in range(4):
        image, mask = shapes.draw_scene(number)
        save(tmp_path / f"photos/{number}.png", encode_image(image))
        scribble = np.full_like(mask, IGNORE)
        scribble[2], scribble[mask > 0] = 0, mask[mask > 0]
        if number < 3:
            save(tmp_path / f"strokes/{number}.png", encode_mask(scribble))
    tiny = {
        "segmenter": {"encoder": "mobilenetv3_small_050", "weights": "random"},
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "head_widths": (4, 4, 8, 8),
        "runtime": {"threads": 1, "progress": False},
    }
    settings = {"confidence": 0.0, "scales": [1.0], "flip": False}
    photos, strokes, out = (str(tmp_path / name) for name in ("photos", "strokes", "out"))
    counts = label_scribbles(photos, strokes, out, shapes.SPACE, training=tiny, settings=settings)
    assert counts == {"kept": 4}
    mask = decode_mask((tmp_path / "out/masks/0.png").read_bytes())
    drawn = decode_mask((tmp_path / "strokes/0.png").read_bytes())
    np.testing.assert_array_equal(mask[drawn != IGNORE], drawn[drawn != IGNORE])
    assert (tmp_path / "out/index.html").read_text().count("<figure>") == 4
    with pytest.raises(ValueError, match=r"expected STEM\.png with strokes"):
        label_scribbles(photos, photos, str(tmp_path / "none"), LabelSpace.from_names(["x"]), training=tiny)


def test_example_configs_are_usable() -> None:
    for name in ("acdc", "simulated"):
        wanted = load_settings(str(CONFIGS / "scribbles" / f"{name}.yaml"), ScribbleConfig)
        assert scribbles_stage(wanted).config_hash
    for name in ("dfr", "scwssod"):
        assert load_settings(str(CONFIGS / "train" / f"{name}.yaml"), TrainConfig).trainer_config()
    assert load_settings(str(CONFIGS / "label" / "scribble.yaml"), LabelConfig).labeler_config()
