"""Masks with grey borders and scribbles in colours: the message names the option, and the option reads them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import LabelSpace, Reason, Uint8Array, load_label_space
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles, scribbles_stage
from tests.pipelines.ingest_sets import ingest, mask_of, photo, put
from tests.pipelines.test_scribbles import rows, scribble_of

FOREGROUND = load_label_space("foreground")


def soft() -> Uint8Array:
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 3:12] = 255
    mask[2, 3:12], mask[9, 3:12], mask[3:9, 2] = 127, 128, 61
    return mask


def make(root: Path, mask: Uint8Array, suffix: str = "png") -> Path:
    put(root / "images/a.jpg", photo(0))
    (root / "masks").mkdir(parents=True)
    Image.fromarray(mask).save(root / f"masks/a.{suffix}", quality=95)
    return root


def test_grey_borders_are_rejected_in_words_that_name_the_option(tmp_path: Path) -> None:
    kept, rejects = ingest(FolderSource(root=str(make(tmp_path, soft()))), tmp_path / "run", FOREGROUND)
    assert not kept
    (row,) = rejects
    assert row["reason"] == str(Reason.UNKNOWN_MASK_ID)
    assert "3 grey values between them" in row["detail"]
    assert "source.threshold: 128" in row["detail"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_threshold_cuts_them(tmp_path: Path, suffix: str) -> None:
    source = FolderSource(root=str(make(tmp_path, soft(), suffix)), threshold=128)
    kept, rejects = ingest(source, tmp_path / "run", FOREGROUND)
    assert not rejects
    found = mask_of(kept[0])
    if suffix == "png":
        np.testing.assert_array_equal(found, (soft() >= 128).astype(np.uint8))
    assert set(np.unique(found)) == {0, 1}
    assert abs(int(found.sum()) - int((soft() >= 128).sum())) < 12


def test_colours_and_spaces_without_background_cannot_be_cut(tmp_path: Path) -> None:
    coloured = np.stack([soft(), soft() // 2, soft() // 3], axis=-1)
    source = FolderSource(root=str(make(tmp_path / "a", coloured)), threshold=128)
    assert [r["reason"] for r in ingest(source, tmp_path / "run", FOREGROUND)[1]] == [str(Reason.WRONG_MASK_FORMAT)]
    bare = LabelSpace(name="bare", classes=FOREGROUND.classes, background_id=None)
    source = FolderSource(root=str(make(tmp_path / "b", soft())), threshold=128)
    (row,) = ingest(source, tmp_path / "again", bare)[1]
    assert "leave threshold out" in row["detail"]


def test_a_few_foreign_ids_are_no_soft_border(tmp_path: Path) -> None:
    mask = np.where(soft() == 61, 0, np.where(soft() == 128, 127, soft())).astype(np.uint8)
    (row,) = ingest(FolderSource(root=str(make(tmp_path, mask))), tmp_path / "run", FOREGROUND)[1]
    assert "threshold" not in row["detail"]


def test_scribbles_in_colours_name_the_channel(tmp_path: Path) -> None:
    make(tmp_path, soft())
    ingest(FolderSource(root=str(tmp_path), masks=None), tmp_path / "run", FOREGROUND)
    strokes = np.zeros((12, 16, 3), np.uint8)
    strokes[4, 4:9, 0], strokes[1, 1:9, 0], strokes[6, 6, 2] = 1, 2, 99
    (tmp_path / "scribbles").mkdir()
    Image.fromarray(strokes).save(tmp_path / "scribbles/a.png")
    config = ScribbleConfig(
        samples=str(tmp_path / "run/samples"), label_space=FOREGROUND, root=str(tmp_path), coding="sduts"
    )
    assert read_scribbles(config, str(tmp_path / "out")) == {"wrong_mask_format": 1}
    assert "set channel: red" in rows(tmp_path / "out", "rejects")[0]["detail"]
    red = config.model_copy(update={"channel": "red"})
    assert scribbles_stage(red).config_hash != scribbles_stage(config).config_hash
    assert read_scribbles(red, str(tmp_path / "red")) == {"kept": 1}
    (row,) = rows(tmp_path / "red")
    found = scribble_of(row)
    assert (found[4, 4:9] == 1).all()
    assert (found[1, 1:9] == 0).all()
    assert (found == 255).sum() == 12 * 16 - 13
