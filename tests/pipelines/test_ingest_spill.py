"""Sorted lists on disk, streamed JSON, and paths: the parts under every source."""

import io
import json
import random
import resource
import tracemalloc
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_sets import VOC

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.ingest import Entry, RawSample, Source, ingest_units
from maskmill.pipelines.ingest.files import path_problem, without_suffix
from maskmill.pipelines.ingest.spill import Spill, json_items, json_rows

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts,
    lambda v: st.lists(v) | st.dictionaries(texts, v),
    max_leaves=8,
)


class Drip(io.StringIO):
    """Gives at most a few characters at a time, so that every token is cut somewhere."""

    def read(self, size: int | None = -1) -> str:
        return super().read(min(size or 3, 3) if size is None or size > 0 else 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(texts, values)))
def test_spill_is_a_sorted_stable_multimap(pairs: list[tuple[str, object]]) -> None:
    spill = Spill()
    spill.add(pairs)
    wanted = sorted(pairs, key=lambda pair: pair[0])
    assert list(spill) == wanted == spill.slice(0, len(pairs))
    assert spill.slice(1, 2) == wanted[1:3]
    assert len(spill) == len(pairs)
    for key, _ in pairs:
        assert spill.get(key) == [v for k, v in pairs if k == key]
    assert spill.get("nowhere, surely") == []


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(texts, values), st.sampled_from([None, 1]))
def test_json_items_agree_with_json(data: dict[str, object], indent: int | None) -> None:
    assert list(json_items(Drip(json.dumps(data, indent=indent)))) == list(data.items())


@settings(max_examples=50, deadline=None)
@given(st.lists(values))
def test_json_rows_agree_with_json(rows: list[object]) -> None:
    assert list(json_rows(Drip(json.dumps(rows)))) == rows
    objects = [{"row": row} for row in rows]
    assert list(json_rows(Drip("\n".join(map(json.dumps, objects))))) == objects


def test_named_arrays_come_element_by_element() -> None:
    text = json.dumps({"a": [1, [2]], "b": [3], "c": {"a": [4]}, "d": []})
    assert list(json_items(io.StringIO(text), frozenset("ad"))) == [("a", 1), ("a", [2]), ("b", [3]), ("c", {"a": [4]})]


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a" 1}', '{"a": 1', '{"a": tru', '{"a": 1 "b": 2}', "{'a': 1}", '{"a": [1, 2']
)
def test_broken_json_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        list(json_items(io.StringIO(text), frozenset("a")))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "", "C:/x", "a\\..\\..\\x", "\\\\host\\x", "s3://b/x", "a\0b"]
)
def test_paths_that_leave_the_root(path: str) -> None:
    assert path_problem(path) is not None


@pytest.mark.parametrize("path", ["a.jpg", "a/b.c/d.jpg", "..a/b..jpg", "a b/ü.png", "./a.jpg"])
def test_paths_that_stay(path: str) -> None:
    assert path_problem(path) is None


def test_stems() -> None:
    assert [without_suffix(p) for p in ("a/b.jpg", "a.b.c", "x", "d.e/f")] == ["a/b", "a.b", "x", "d.e/f"]


class EndlessSource(Source):
    """Lists `count` entries in random order and loads none."""

    kind: Literal["endless"] = "endless"
    count: int

    def entries(self) -> Iterator[Entry]:
        draw = random.Random(0)
        for number in range(self.count):
            yield Entry(f"{draw.random():.12f}/{number:09d}.jpg", "1:2", {"mask": f"masks/{number:09d}.png"})

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        raise NotImplementedError(entry.key, space.name)


def test_memory_does_not_grow_with_the_listing(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = str(tmp_path_factory.mktemp("run"))
    peaks, units = [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in (4_000, 24_000):
        tracemalloc.start()
        units.append(ingest_units(EndlessSource(root="", count=count), run, 2_000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert [len(u) for u in units] == [2, 12]
    assert peaks[1] < peaks[0] * 1.5 + 200_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
    assert VOC.name == "voc"


def test_units_do_not_depend_on_the_order_of_listing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path_factory.mktemp("run"))
    source = EndlessSource(root="", count=500)
    first = ingest_units(source, run, 64)
    listed = list(source.entries())
    random.Random(5).shuffle(listed)
    monkeypatch.setattr(EndlessSource, "entries", lambda self: iter(listed))
    assert ingest_units(source, run, 64) == first
