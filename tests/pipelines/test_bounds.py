"""What a file may cost, whatever it says of itself: memory is measured in a process of its own, work is counted."""

import io
import json
import resource
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from maskmill.data_contracts import ContractError, LabelSpace, load_label_space
from maskmill.data_contracts.blocks import blocks, histogram
from maskmill.data_contracts.instances import Instance
from maskmill.data_contracts.rle import Runs, columns, pack_mask, rows, runs_by_value
from maskmill.generators.spans import fit_prompt
from maskmill.pipelines.ingest import archive_root, archives
from maskmill.pipelines.ingest.coco import CocoSource
from maskmill.pipelines.ingest.dataset_diffusion import split_class_prompt
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.stage import ingest_entry
from tests.pipelines.ingest_sets import photo, put

SIDE, OBJECTS = 1000, 10_000
Masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=80, deadline=None)
@given(Masks)
def test_runs_say_what_the_mask_says(mask: NDArray[np.bool_]) -> None:
    runs = Runs.of(mask)
    assert np.array_equal(runs.draw(), mask)
    assert runs.area == mask.sum()
    assert Runs.between(*runs.spans, *mask.shape).text == pack_mask(mask)
    canvas = columns(np.zeros(mask.shape, np.uint8))
    runs.paint(canvas, 7)
    assert np.array_equal(rows(canvas, *mask.shape), np.where(mask, 7, 0))
    if mask.any():
        down, across = np.nonzero(mask)
        assert runs.box == (across.min(), down.min(), across.max() + 1, down.max() + 1)


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-2, 3)))
def test_values_come_apart_in_one_pass(values: NDArray[np.int32]) -> None:
    found = runs_by_value(values)
    assert list(found) == sorted(set(values.ravel().tolist()))
    for value, runs in found.items():
        assert runs.text == pack_mask(values == value)


def test_blocks_cover_an_array_once() -> None:
    values = np.random.default_rng(0).integers(0, 256, (3000, 701), dtype=np.uint8)
    assert np.array_equal(np.concatenate([values[some] for some in blocks(values)]), values)
    assert np.array_equal(histogram(values), np.bincount(values.ravel(), minlength=256))
    assert not list(blocks(values[:0]))


def test_an_object_takes_bytes_and_no_canvas() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[100:140, 200:260] = True
    one = Instance.of(1, mask)
    assert one.runs is not None
    assert len(one.runs.text) < 1000


def make_photo_of_many(folder: Path) -> None:
    """10,000 small polygons on one photo."""
    put(folder / "images/a.jpg", photo(0, SIDE, SIDE))
    corners = np.random.default_rng(0).integers(0, SIDE - 20, (OBJECTS, 2)).tolist()
    notes = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": [[x, y, x + 12, y, x + 12, y + 9, x, y + 9]]}
        for n, (x, y) in enumerate(corners, 1)
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": SIDE, "width": SIDE}],
        "annotations": notes,
        "categories": [{"id": 1, "name": "cell"}],
    }
    put(folder / "a.json", json.dumps(document))


def take_in(folder: str) -> None:
    """In a process that may use one gigabyte more than it has: the sample of that photo, written and read again."""
    space = LabelSpace.from_names(["cell"])
    source = CocoSource(root=folder, annotations="a.json")
    (entry,) = source.entries()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
    row = ingest_entry(entry, source, space)
    assert isinstance(row, dict), row
    assert len(row["instances"]) == OBJECTS


def test_ten_thousand_polygons_on_one_photo_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    make_photo_of_many(tmp_path)
    call = "import sys; from tests.pipelines.test_bounds import take_in; take_in(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", call, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_prompt_costs_as_much_as_it_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    space, asked = load_label_space("coco"), []
    real = LabelSpace.has

    def has(self: LabelSpace, word: str) -> bool:
        asked.append(word)
        return real(self, word)

    monkeypatch.setattr(LabelSpace, "has", has)
    calls = []
    for words in (200, 400):
        asked.clear()
        assert len(split_class_prompt("hot dog " * (words // 2), space)) == words // 2
        calls.append(len(asked))
    assert calls[1] == pytest.approx(2 * calls[0], rel=0.1)
    assert calls[0] < 200 * space.most_words


def zipped(members: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(members):
            archive.writestr(f"images/{number}.png", b"x")
    return buffer.getvalue()


def tarred(members: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(members):
            archive.addfile(tarfile.TarInfo(f"images/{number}.png"))
    return buffer.getvalue()


def test_an_archive_of_too_many_members_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 1000)
    monkeypatch.setattr(archive_root, "MAX_MEMBERS", 10)
    for number, sound in ((9, True), (200, False)):
        for name, data in (("a.zip", zipped(number)), ("a.tar", tarred(number))):
            path = put(tmp_path / str(number) / name, data)
            source = FolderSource(root=str(path), masks=None)
            if sound:
                assert len(list(source.entries())) == number
            else:
                with pytest.raises(ContractError, match=r"a\.(zip|tar): image_too_large: expected .* members"):
                    list(source.entries())


def test_a_long_caption_is_cut_in_as_many_steps_as_the_window_has_tokens() -> None:
    calls = []

    class Tokens:
        def __call__(self, text: str, add_special_tokens: bool) -> "Tokens":
            calls.append(text)
            self.input_ids = text.split()
            return self

    window: Any = SimpleNamespace(tokenizer=Tokens(), room=18)
    prompt, cut = fit_prompt(window, "word " * 5000 + "; dog", "dog")
    assert cut
    assert prompt.endswith("; dog")
    assert len(calls) < 30
