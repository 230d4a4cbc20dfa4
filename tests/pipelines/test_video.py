"""Video files as samples, their limits, and `maskmill label video` from a folder or a file to masks and an overlay."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import ContractError, LabelSpace, decode_image, encode_image
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.video import VideoSource
from maskmill.pipelines.weak.boxes import Box, read_boxes
from maskmill.pipelines.weak.label_clip import clip_space, first_boxes
from maskmill.vision.video import encode_video, read_frames
from tests.pipelines.ingest_sets import ingest, put, put_json, reasons
from tests.trainers.clips import BLUE, RED, Square, box_of, draw
from tests.trainers.test_ftmu import run, segmenter

__all__ = ["segmenter"]  # a fixture
SPACE = LabelSpace.from_names(["object"])
torch.set_num_threads(1)


def script(frames: int = 7) -> list[list[Square]]:
    return [[(8 + t, 6 + 3 * t, 24, RED), (36, 66, 20, BLUE)] for t in range(frames)]


def video(path: Path, frames: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(draw(squares) for squares in script(frames)))
    return path


def test_a_video_goes_in_and_out(tmp_path: Path) -> None:
    frames = list(read_frames(video(tmp_path / "a.mp4").read_bytes()))
    assert [number for number, _ in frames] == list(range(7))
    for (_, image), squares in zip(frames, script(), strict=True):
        difference = np.abs(image.astype(int) - draw(squares)).mean()
        assert difference < 12, "MPEG-4 loses a little"


def test_each_frame_is_a_sample_of_its_clip(tmp_path: Path) -> None:
    video(tmp_path / "v/one.mp4")
    video(tmp_path / "v/deep/two.mp4", 5)
    samples, rejects = ingest(VideoSource(root=str(tmp_path / "v")), tmp_path / "run", SPACE)
    assert not rejects
    by_clip = {g: [r["index"] for r in samples if r["group"] == g] for g in ("one", "deep/two")}
    assert by_clip == {"one": list(range(7)), "deep/two": list(range(5))}
    assert all(row["mask"] is None for row in samples)
    frames = dict(read_frames((tmp_path / "v/one.mp4").read_bytes()))
    for row in samples:
        if row["group"] == "one":
            np.testing.assert_array_equal(decode_image(row["image"]["bytes"]), frames[row["index"]])
    third, _ = ingest(VideoSource(root=str(tmp_path / "v"), every=3), tmp_path / "third", SPACE)
    assert sorted(row["index"] for row in third if row["group"] == "one") == [0, 3, 6]
    ids = {(row["group"], row["index"]): row["sample_id"] for row in samples}
    assert all(ids[row["group"], row["index"]] == row["sample_id"] for row in third)


def test_limits_and_broken_files_are_rejects_with_reasons(tmp_path: Path) -> None:
    good = video(tmp_path / "v/good.mp4", 3).read_bytes()
    put(tmp_path / "v/broken.mp4", b"no video at all")
    put(tmp_path / "v/cut.mp4", good[: len(good) // 3])
    put(tmp_path / "v/list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    video(tmp_path / "v/long.mp4", 9)
    samples, rejects = ingest(VideoSource(root=str(tmp_path / "v"), max_frames=5), tmp_path / "run", SPACE)
    assert {row["group"] for row in samples} == {"good"}
    assert set(reasons(rejects)) == {"broken.mp4", "cut.mp4", "list.mp4", "long.mp4"}
    assert set(reasons(rejects).values()) == {"undecodable_image"}
    _, rejects = ingest(VideoSource(root=str(tmp_path / "v"), max_pixels=64), tmp_path / "few", SPACE)
    assert reasons(rejects)["good.mp4"] == "image_too_large"


def test_a_folder_of_frames_is_a_clip(tmp_path: Path) -> None:
    for number, squares in enumerate(script(3)):
        path = tmp_path / f"JPEGImages/480p/walk/{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(squares)).save(path)
    source = FolderSource(root=str(tmp_path), images="JPEGImages/480p", masks=None, group_by="parent")
    samples, _ = ingest(source, tmp_path / "run", SPACE)
    assert [(row["group"], row["index"]) for row in samples] == [("walk", 0), ("walk", 1), ("walk", 2)]


def test_repeated_names_of_boxes_are_numbered() -> None:
    boxes = [Box(name, (0.0, 0.0, 4.0, 4.0)) for name in ("dog", "object", "dog")]
    assert [c.name for c in clip_space(boxes).classes] == ["dog 1", "object", "dog 2"]


def frames(folder: Path, count: int = 3) -> FolderSource:
    for number in range(count):
        put(folder / f"{number + 8}.png", encode_image(draw(script()[number])))
    return FolderSource(root=str(folder), images="", masks=None, group_by="parent")


@pytest.mark.parametrize("named", ["8.png", "8", None])
def test_boxes_are_those_of_the_first_frame_or_name_no_file(tmp_path: Path, named: str | None) -> None:
    source, box = frames(tmp_path / "walk"), (0.0, 0.0, 4.0, 4.0)
    listed: list[dict[str, object]] = [{"name": "dog", "box": box, **({"file": named} if named else {})}]
    more = [] if named is None else [{"name": "cat", "box": box, "file": "10.png"}]  # 10 < 8 as a word
    path = str(put_json(tmp_path / "b.json", [*listed, *more]))
    assert first_boxes(read_boxes(path), source, path) == [Box("dog", box)]


def test_boxes_of_a_video_file_name_that_file(tmp_path: Path) -> None:
    source, boxes = VideoSource(root=str(tmp_path / "walk.mp4")), {"walk": [Box("dog", (0.0, 0.0, 4.0, 4.0))]}
    assert first_boxes(boxes, source, "b.csv") == boxes["walk"]


def test_boxes_of_other_frames_alone_are_refused(tmp_path: Path) -> None:
    boxes = {"9": [Box("dog", (0.0, 0.0, 4.0, 4.0))]}
    with pytest.raises(ContractError, match=r"b\.csv: bad_annotation: expected boxes of the first frame, 8\.png"):
        first_boxes(boxes, frames(tmp_path / "walk"), "b.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected frames"):
        first_boxes(boxes, FolderSource(root=str(tmp_path / "empty"), images="", masks=None), "b.csv")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_command_writes_a_mask_for_every_frame_and_an_overlay(tmp_path: Path, segmenter: str, kind: str) -> None:
    clip = tmp_path / "clip"
    if kind == "folder":
        clip.mkdir()
        for number, squares in enumerate(script()):
            Image.fromarray(draw(squares)).save(clip / f"{number:05d}.png")
    else:
        clip = video(tmp_path / "clip.mp4")
    boxes = [{"name": n, "box": box_of(s).tolist()} for n, s in zip(("car", "bus"), script()[0], strict=True)]
    put_json(tmp_path / "boxes.json", boxes)
    agent, out = run(tmp_path / "agent", segmenter), tmp_path / "out"
    words = ["label", "video", "--clip", str(clip), "--boxes", str(tmp_path / "boxes.json"), "--out", str(out)]
    result = CliRunner().invoke(app, [*words, "--agent", agent])
    assert result.exit_code == 0, result.output
    masks = sorted((out / "masks").iterdir())
    assert len(masks) == 7, "every frame has its mask, found or not"
    for path in masks:
        mask = Image.open(path)
        assert mask.mode == "P"
        assert mask.size == (96, 64)
        assert set(np.unique(np.asarray(mask)).tolist()) <= {0, 1, 2}
    assert json.loads((out / "objects.json").read_text()) == {"1": "car", "2": "bus"}
    assert len(list(read_frames((out / "overlay.mp4").read_bytes()))) == 7
    before = {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}
    assert CliRunner().invoke(app, [*words, "--agent", agent]).exit_code == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}, "labelled once"
    missing = CliRunner().invoke(app, [*words, "--agent", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "nowhere" in missing.output
