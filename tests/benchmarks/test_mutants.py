"""The tables of one-line changes fit the code, and what runs them tells a killed one from one that survives."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutants import hook, table
from benchmarks.mutants.__main__ import metrics, parse, picked
from benchmarks.mutants.fork import WAITING, Ended, Task, run_all
from benchmarks.mutants.propose import candidates
from benchmarks.mutants.reach import Reach
from benchmarks.mutants.run import Memory, Outcome, _outcome, plan
from benchmarks.mutants.table import Mutant, Room, RowError, chosen_rooms, errors, load_room, room_names

CODE = """
def larger(a, b):
    if a > b:  # ties go to b
        return a
    return (
        b
    )
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one module."""
    monkeypatch.setattr(table, "ROOT", tmp_path)
    for module in ("reach", "run"):
        monkeypatch.setattr(f"benchmarks.mutants.{module}.ROOT", tmp_path)
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text("def test_one(): pass\n")
    return tmp_path


def mutant(old: str = "a > b", new: str = "a >= b", **more: str) -> Mutant:
    return Mutant("room", "ties", "code.py", old, new, **more)


def test_every_row_of_every_table_is_found_once() -> None:
    """Whoever changes a line that a table names changes its row as well."""
    rooms = [load_room(name) for name in room_names()]
    assert errors(rooms) == []
    assert len(rooms) >= 3
    assert all(room.mutants for room in rooms)


def test_rows_that_fit_nothing_are_named(house: Path) -> None:
    assert mutant().mutated() == CODE.replace("a > b", "a >= b")
    for old, new, said in (
        ("a < b", "a", "found 0 times"),
        ("return", "yield", "found 2 times"),
        ("a > b", "a >", "is no Python"),
        ("# ties go to b", "# ties", "changes nothing"),
    ):
        with pytest.raises(RowError, match=said):
            mutant(old, new).mutated()
    room = Room("room", (), {"*": ("test_code.py", "gone.py")}, (mutant(), mutant("a < b")))
    found = errors([room])
    assert len(found) == 3
    assert "ties: expected once, found again" in found[0]
    assert "gone.py" in found[1]
    assert "found 0 times" in found[2]


def test_rows_that_no_longer_fit_can_be_dropped(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "    ties: ['a > b', 'a >= b']\n    gone: ['a < b', 'a']\n    both: [return, yield]\n"
    (house / "room.yaml").write_text(f"tests:\n  '*': []\nmutants:\n  code.py:\n{rows}")
    monkeypatch.setattr(table, "TABLES", house)
    assert table.prune("room") == ["gone", "both"]
    assert [mutant.id for mutant in load_room("room").mutants] == ["ties"]
    assert table.prune("room") == []


def test_a_change_touches_the_lines_of_its_statement(house: Path) -> None:
    assert list(mutant().lines()) == [3]  # the head of the condition, not what stands under it
    assert list(mutant("        b\n", "        a\n").lines()) == [5, 6, 7]
    assert list(mutant("def larger(a, b)", "def larger(b, a)").lines()) == [2]


def test_rooms_by_name_and_by_folder() -> None:
    assert chosen_rooms(["all"]) == room_names()
    assert "curation/sds" in chosen_rooms(["curation"])
    assert chosen_rooms(["curation/sds", "curation/sds"]) == ["curation/sds"]
    with pytest.raises(ValueError, match="attic"):
        chosen_rooms(["attic"])


def test_some_mutants_can_be_asked_for() -> None:
    room = load_room("data_contracts")
    first = room.mutants[3]
    assert picked(room, [first.id], None, 0) == [first]
    some = picked(room, [], 5, 1)
    assert len(some) == 5
    assert some == picked(room, [], 5, 1) != picked(room, [], 5, 2)
    assert parse(["--json", "x"]).room == "all"


def test_explained_ones_are_not_held_against_a_room() -> None:
    outcomes = [Outcome("killed", "x")] * 3 + [Outcome("survived")] + [Outcome("explained", "why")] * 2
    assert metrics(outcomes) == {"killed": 0.75, "mutants": 6, "survived": 1, "explained": 2}
    assert metrics([])["killed"] == 1.0


def test_only_tests_that_run_the_line_are_chosen(house: Path) -> None:
    seen = {"code.py": {"larger": {"if a > b:  # ties go to b": [0, 2]}, "": {"def larger(a, b):": []}}}
    reach = {"test_code.py": Reach({"t::a": 0.1, "t::b": 5.0, "t::c": 0.2}, ["t::c"], seen)}
    found = plan(mutant(), ["test_code.py"], reach)
    assert found.chosen == {"t::a"}  # c fails without any change
    assert found.seconds == pytest.approx(0.1)
    at_import = plan(mutant("def larger(a, b)", "def larger(b, a)"), ["test_code.py"], reach)
    assert at_import.chosen == {"t::a", "t::b"}
    unknown = plan(mutant(), ["other.py"], reach)
    assert (unknown.chosen, unknown.files) == (None, ["other.py"])


def test_outcomes_are_kept_until_a_test_changes(house: Path) -> None:
    room = Room("room", (), {"*": ("test_code.py",)}, (mutant(),))
    memory = Memory(house / "cache", fresh=False)
    assert memory.get(mutant(), room) is None
    memory.put(mutant(), room, Outcome("survived"))
    assert Memory(house / "cache", fresh=False).get(mutant(), room) == Outcome("survived")
    assert Memory(house / "cache", fresh=True).get(mutant(), room) is None
    assert memory.get(replace(mutant(), new="a == b"), room) is None
    (house / "test_code.py").write_text("def test_two(): pass\n")
    assert memory.get(mutant(), room) is None


def test_children_end_in_their_own_way() -> None:
    def hang(_: Path) -> int:
        while True:
            time.sleep(0.01)

    def fail(_: Path) -> int:
        raise RuntimeError("broken")

    tasks = [
        Task("fine", lambda folder: print("hello") or len(list(folder.iterdir())), 5.0),
        Task("fails", fail, 5.0),
        Task("dies", lambda _: os.kill(os.getpid(), 9) or 0, 5.0),
        Task("hangs", hang, 0.5 / WAITING),
    ]
    found = {ended.task.name: ended for ended in run_all(tasks, jobs=2)}
    assert (found["fine"].code, found["fine"].output) == (1, "hello\n")  # its folder held the file of its output
    assert found["fails"].code == 70
    assert "broken" in found["fails"].output
    assert found["dies"].code == -9
    assert found["hangs"].code is None


@pytest.mark.parametrize(
    ("code", "output", "outcome"),
    [
        (0, "first to fail: \n", Outcome("survived")),
        (5, "", Outcome("survived")),
        (1, "first to fail: a::b\n", Outcome("killed", "a::b")),
        (-11, "", Outcome("killed", "exit -11")),
        (None, "", Outcome("killed", "out of time")),
    ],
)
def test_how_a_child_ended_is_what_became_of_its_mutant(code: int | None, output: str, outcome: Outcome) -> None:
    assert _outcome(Ended(Task("x", lambda _: 0, 1.0), code, output, 1.0)) == outcome


def test_a_changed_module_is_seen_by_programs_that_are_started(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("SIDE = 1\n")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "changed.py").write_text("SIDE = 2\n")
    (overlay / "sitecustomize.py").write_bytes(Path(hook.__file__).read_bytes())
    paths = os.pathsep.join([str(overlay), str(tmp_path)])
    changed = {hook.WHERE: str(tmp_path / "code.py"), hook.TEXT: str(overlay / "changed.py"), "PYTHONPATH": paths}
    said = [sys.executable, "-c", "import code, sys; print(code.SIDE)"]
    done = subprocess.run(said, env={**os.environ, **changed}, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert (tmp_path / "code.py").read_text() == "SIDE = 1\n"


def test_candidates_can_be_applied(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mutants.propose.ROOT", house)
    found = {(old, new) for _, old, new in candidates("code.py")}
    assert ("if a > b:  # ties go to b", "if a >= b:  # ties go to b") in found
    assert all(compile(CODE.replace(old, new), "x", "exec") for old, new in found)
