"""What is kept so that nothing is read twice: the listing of a source, footers, the account. It decides nothing."""

import json
import os
import time
from pathlib import Path

import pytest

from maskmill.data_contracts import list_shards, read_footer
from maskmill.data_contracts.known import SETTLED_NS, Known, file_stamp
from maskmill.pipelines.core import index, ledger
from maskmill.pipelines.core.ledger import build_ledger, keep_ledger
from maskmill.pipelines.core.stage import Unit
from maskmill.pipelines.core.step import TASKS, groups_of
from maskmill.pipelines.ingest import ingest_stage, unchanged
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.unchanged import note_listing, tree_stamp, units_of
from tests.factories import FakeRun
from tests.pipelines.ingest_sets import VOC, make_folder, photo, put


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    make_folder(tmp_path / "pets", ["a", "b", "c"])
    settle(tmp_path / "pets")
    return FolderSource(root=str(tmp_path / "pets"))


def settle(root: Path) -> None:
    """Wait until the last change of a file lies far enough back to be told from the next one."""
    newest = max(path.stat().st_ctime_ns for path in root.rglob("*"))
    while time.time_ns() - newest <= SETTLED_NS:
        time.sleep(0.01)


def units(source: FolderSource, tmp_path: Path, size: int = 2, fresh: bool = False) -> list[Unit]:
    return units_of(ingest_stage(source, VOC), source, str(tmp_path / "run"), size, fresh=fresh)


@pytest.fixture
def listed(source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """Units as first listed and noted; from here on a listing is an error."""
    found = units(source, tmp_path)
    note_listing(str(tmp_path / "run"))

    def never(*_: object) -> list[Unit]:
        raise AssertionError("listed again")

    monkeypatch.setattr(unchanged, "ingest_units", never)
    return found


def test_the_units_of_an_unchanged_source_are_as_listed(
    source: FolderSource, listed: list[Unit], tmp_path: Path
) -> None:
    assert len(listed) == 2
    assert units(source, tmp_path) == listed


@pytest.mark.parametrize("change", ["new file", "gone", "same size and time", "a folder", "size", "recheck", "option"])
def test_whatever_changes_is_listed(source: FolderSource, listed: list[Unit], tmp_path: Path, change: str) -> None:
    root = Path(source.root)
    if change == "new file":
        put(root / "images/d.jpg", photo(9))
    if change == "gone":
        (root / "images/a.jpg").unlink()
    if change == "same size and time":
        before = (mask := root / "masks/a.png").stat()
        mask.write_bytes(mask.read_bytes()[:-1] + b"\0")
        os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    if change == "a folder":
        put(root / "more/read_me.txt", "hello")
    settle(root)
    asked = source.model_copy(update={"allow_empty": True}) if change == "option" else source
    with pytest.raises(AssertionError, match="listed again"):
        units(asked, tmp_path, size=3 if change == "size" else 2, fresh=change == "recheck")


def test_a_damaged_note_is_as_none(source: FolderSource, listed: list[Unit], tmp_path: Path) -> None:
    kept = tmp_path / "run/cache/listing.json"
    kept.write_bytes(kept.read_bytes().replace(b"0+2", b"0+1"))
    with pytest.raises(AssertionError, match="listed again"):
        units(source, tmp_path)


def test_what_is_being_changed_is_not_trusted(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets", ["a"])
    later = time.time() + 100
    os.utime(tmp_path / "pets/images/a.jpg", (later, later))
    assert tree_stamp(str(tmp_path / "pets")) is None


def test_a_link_to_a_folder_is_not_trusted(tmp_path: Path, source: FolderSource) -> None:
    assert tree_stamp(source.root) is not None
    (Path(source.root) / "images/far").symlink_to(tmp_path)
    assert tree_stamp(source.root) is None
    assert tree_stamp("s3://bucket/photos") is None


def test_a_footer_is_read_once_until_its_file_changes(run: FakeRun) -> None:
    path = Path(list_shards(f"{run.path}/samples")[0])
    settle(path.parent)
    first = read_footer(str(path))
    assert read_footer(str(path)) is first
    path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)
    assert read_footer(str(path)) is None, "damage is seen where something was known before"


def test_footers_travel_to_the_next_process(tmp_path: Path) -> None:
    file = put(tmp_path / "run/samples/x", "x")
    settle(tmp_path / "run")
    known: Known[str] = Known()
    known.put(str(file), file_stamp(str(file)), "its footer")
    other: Known[str] = Known()
    other.learn(str(tmp_path / "run"), json.loads(json.dumps(known.inside(str(tmp_path / "run"))), object_hook=_stamps))
    assert other.get(str(file), file_stamp(str(file))) == "its footer"
    assert other.get(str(file), None) is None


def _stamps(kept: dict[str, tuple[list[int], str]]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (tuple(stamp), value) for path, (stamp, value) in kept.items()}


def test_an_account_is_kept_until_a_shard_changes(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_ledger(run.path)
    keep_ledger(run.path)
    ledger._built.clear()
    monkeypatch.setattr(ledger, "_account", lambda _: pytest.fail("counted again"))
    assert build_ledger(run.path) == before
    os.unlink(list_shards(f"{run.path}/samples")[0])
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        build_ledger(run.path)


def test_an_entry_of_another_stamp_is_none(tmp_path: Path) -> None:
    index.note(str(tmp_path), "thing", "one", [1, 2])
    assert index.recall(str(tmp_path), "thing", "one") == [1, 2]
    assert index.recall(str(tmp_path), "thing", "two") is None
    assert index.recall(str(tmp_path), "other", "one") is None


@pytest.mark.parametrize("total", [0, 1, 255, 256, 257, 1563, 100_000])
def test_a_flow_makes_a_few_hundred_tasks_at_most(total: int) -> None:
    starts, counts = groups_of(total)
    assert len(starts) <= TASKS
    assert [one for start, count in zip(starts, counts, strict=True) for one in range(start, start + count)] == list(
        range(total)
    )
    assert total > TASKS or counts == [1] * total
