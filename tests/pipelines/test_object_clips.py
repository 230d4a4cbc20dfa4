"""SegTrack v2 and YouTube-Objects in their own layouts: clips, objects, and what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import ContractError, LabelSpace, load_label_space
from maskmill.pipelines.ingest import SOURCES, Source

SIZE = (20, 30)


def put(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def square(top: int, left: int, side: int = 6, value: int = 255) -> np.ndarray[Any, Any]:
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


@pytest.fixture
def segtrack(tmp_path: Path) -> Path:
    """Two sequences: one object beside its frames' names, two in folders; suffixes differ as they do there."""
    root = tmp_path / "SegTrackv2"
    for frame in range(3):
        put(root / "JPEGImages" / "frog" / f"frog_{frame}.png", square(3, frame))
        put(root / "GroundTruth" / "frog" / f"frog_{frame}.png", square(3, frame))
        put(root / "JPEGImages" / "bmx" / f"bmx_{6668 + frame:05d}.bmp", square(3, frame))
        put(root / "GroundTruth" / "bmx" / "1" / f"bmx_{6668 + frame:05d}.bmp", square(2, 2))
        put(
            root / "GroundTruth" / "bmx" / "2" / f"bmx_{6668 + frame:05d}.png",
            square(5, 5, value=0 if frame == 2 else 255),
        )
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "all.txt").write_text("*frog\n*bmx\n")
    (root / "ImageSets" / "frog.txt").write_text("frog/\nfrog_0\nfrog_1\nfrog_2\n")
    (root / "ImageSets" / "bmx.txt").write_text("bmx/\nbmx_06668\nbmx_06669\nbmx_06670\n")
    return root


def read(source: Source, space: LabelSpace) -> dict[tuple[str | None, int | None], Any]:
    found = {}
    for entry in source.entries():
        assert entry.problem is None, entry.problem
        sample = source.load(entry, space)
        assert source.group_of(entry) == sample.group
        found[sample.group, sample.index] = sample.drawn
    return found


def test_segtrack_has_an_id_an_object(segtrack: Path) -> None:
    found = read(SOURCES.validate({"kind": "segtrack", "root": str(segtrack)}), load_label_space("objects"))
    assert sorted(found) == [("bmx", 0), ("bmx", 1), ("bmx", 2), ("frog", 0), ("frog", 1), ("frog", 2)]
    np.testing.assert_array_equal(found["frog", 1], square(3, 1)[..., 0] // 255)
    both = square(2, 2)[..., 0] // 255
    np.testing.assert_array_equal(found["bmx", 2], both)  # the second object has left
    both[5:11, 5:11] = 2
    np.testing.assert_array_equal(found["bmx", 0], both)


def test_segtrack_says_which_mask_is_missing(segtrack: Path) -> None:
    (segtrack / "GroundTruth" / "bmx" / "2" / "bmx_06669.png").unlink()
    put(segtrack / "GroundTruth" / "frog" / "frog_2.bmp", square(3, 2))
    source = SOURCES.validate({"kind": "segtrack", "root": str(segtrack)})
    wrong = {entry.key: entry.problem for entry in source.entries() if entry.problem is not None}
    assert set(wrong) == {"JPEGImages/bmx/bmx_06669.bmp", "JPEGImages/frog/frog_2.png"}
    assert "GroundTruth/bmx/2/bmx_06669" in str(wrong["JPEGImages/bmx/bmx_06669.bmp"])
    assert "frog_2.bmp, GroundTruth/frog/frog_2.png" in str(wrong["JPEGImages/frog/frog_2.png"])


def test_segtrack_masks_of_two_sizes_are_refused(segtrack: Path) -> None:
    put(segtrack / "GroundTruth" / "bmx" / "2" / "bmx_06668.png", np.zeros((10, 10, 3)))
    source = SOURCES.validate({"kind": "segtrack", "root": str(segtrack)})
    entry = next(e for e in source.entries() if e.key.endswith("bmx_06668.bmp"))
    with pytest.raises(ContractError, match=r"masks of one size \(30x20\).*10x10"):
        source.load(entry, load_label_space("objects"))


@pytest.fixture
def youtube(tmp_path: Path) -> Path:
    root = tmp_path / "YouTube-Objects"
    for shot, first in (("001", 1), ("002", 101)):
        place = f"cat/data/0007/shots/{shot}"
        for frame in range(first, first + 3):
            put(root / "v1" / place / f"frame{frame:04d}.jpg", square(3, 3))
        put(root / "youtube_masks" / place / "labels" / f"{first:05d}.jpg", square(8, 8, side=8)[..., 0])
    put(root / "v1" / "cat" / "data" / "0007" / "preview.jpg", square(0, 0))
    return root


def test_youtube_objects_are_of_their_folders_class(youtube: Path) -> None:
    space = load_label_space("voc")
    found = read(SOURCES.validate({"kind": "youtube_objects", "root": str(youtube)}), space)
    assert sorted(found) == [("cat/0007/001", 1), ("cat/0007/002", 101)]
    mask = found["cat/0007/001", 1]
    assert set(np.unique(mask)) == {0, space.find("cat").id}
    assert (mask[9:15, 9:15] > 0).all()
    assert (mask[:6, :] == 0).all()


def test_youtube_objects_with_all_frames_for_a_tracker(youtube: Path) -> None:
    objects = load_label_space("objects")
    name = objects.classes[0].name
    given = {"kind": "youtube_objects", "root": str(youtube), "unlabelled": True, "shared": name}
    found = read(SOURCES.validate(given), objects)
    assert len(found) == 6
    assert [found["cat/0007/002", index] is None for index in (101, 102, 103)] == [False, True, True]
    assert set(np.unique(found["cat/0007/002", 101])) == {0, 1}
    with pytest.raises(ContractError, match="cat"):
        read(SOURCES.validate({"kind": "youtube_objects", "root": str(youtube)}), objects)
