"""Tables of one-line changes: what they look like, what is wrong with them, and a module with one of them made.

    warm: [open_clip]                     # packages that its tests import and that take long, besides the usual ones
    tests:                                # files and folders of tests, quickest first, by file or for all others
      curation/sds/asf.py: [tests/curation/test_sds_asf.py]
      "*": [tests/curation]
    mutants:
      curation/sds/asf.py:
        undecided-are-counted: ['if ignore == "exclude":', 'if False:']
        ties-to-the-last: ['best = a > b', 'best = a >= b', 'explained: a and b never meet, see f()']

Each row, on a line of its own, is the old text, which occurs once in the file, the new text and, where no test can see
the change, why.
"""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(__file__).parent / "tables"
EXPLAINED = "explained: "


class RowError(ValueError):
    """A row that cannot be applied."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file (path from the root of the checkout). `explained`: why nothing can notice it."""

    room: str
    id: str
    file: str
    old: str
    new: str
    explained: str | None = None

    @cached_property
    def source(self) -> str:
        return (ROOT / self.file).read_text(encoding="utf-8")

    def mutated(self) -> str:
        """The file's text with the change made.

        Raises:
            RowError: the old text is not there exactly once, or the new text is no Python.
        """
        count = self.source.count(self.old)
        if count != 1:
            raise RowError(f"{self.room}: {self.id}: expected once in {self.file}, found {count} times: {self.old!r}")
        text = self.source.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(text)) == ast.dump(ast.parse(self.source))
        except SyntaxError as error:
            raise RowError(f"{self.room}: {self.id}: {self.file} is no Python with {self.new!r}: {error}") from None
        if same:
            raise RowError(f"{self.room}: {self.id}: {self.new!r} changes nothing in {self.file}")
        return text

    def lines(self) -> range:
        """Line numbers (from 1) of the statement, or of the head of the statement, that is changed."""
        start = self.source[: self.source.index(self.old)].count("\n") + 1
        end = start + self.old.rstrip("\n").count("\n")
        found = range(start, end + 1)
        for node in ast.walk(ast.parse(self.source)):
            if isinstance(node, ast.stmt) and node.lineno <= start and end <= (node.end_lineno or 0):
                body = getattr(node, "body", None)
                last = body[0].lineno - 1 if body else node.end_lineno or end
                found = range(node.lineno, max(last, node.lineno) + 1)  # walked from outside in: the innermost stays
        return found if start in found else range(start, end + 1)


@dataclass(frozen=True)
class Room:
    """The changes of one room; `tests` are the files of tests that should notice them, by file that is changed."""

    name: str
    warm: tuple[str, ...]
    tests: dict[str, tuple[str, ...]]
    mutants: tuple[Mutant, ...]

    def tests_of(self, file: str) -> tuple[str, ...]:
        """Files of tests that should notice a change of `file`."""
        return self.tests[file] if file in self.tests else self.tests["*"]

    @property
    def all_tests(self) -> list[str]:
        """All files of tests that some mutant of the room needs."""
        return list(dict.fromkeys(test for mutant in self.mutants for test in self.tests_of(mutant.file)))


def room_names() -> list[str]:
    """Rooms that have a table."""
    return sorted(path.relative_to(TABLES).with_suffix("").as_posix() for path in TABLES.rglob("*.yaml"))


def chosen_rooms(words: list[str]) -> list[str]:
    """Rooms by name, or by the folder that they lie in; `all` is all.

    Raises:
        ValueError: a word that names none.
    """
    names, found = room_names(), []
    for word in words:
        these = [n for n in names if word == "all" or n == word or n.startswith(f"{word}/")]
        if not these:
            raise ValueError(f"room {word!r}: expected all, or some of {', '.join(names)}")
        found += these
    return list(dict.fromkeys(found))


def load_room(name: str) -> Room:
    """The table of a room. Its rows are not held against the files yet: see `Mutant.mutated`."""
    table = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    mutants = [
        _mutant(name, id, file, row) for file, rows in table["mutants"].items() for id, row in (rows or {}).items()
    ]
    tests = {file: tuple(_test_files(words)) for file, words in table["tests"].items()}
    return Room(name, tuple(table.get("warm", ())), tests, tuple(mutants))


def _mutant(room: str, id: str, file: str, row: list[str]) -> Mutant:
    why = row[2] if len(row) > 2 else None
    if why is not None and not why.startswith(EXPLAINED):
        raise RowError(f"{room}: {id}: expected a third text that begins with {EXPLAINED!r}, found {why!r}")
    return Mutant(room, id, file, row[0], row[1], why and why.removeprefix(EXPLAINED))


def _test_files(words: list[str]) -> list[str]:
    found: list[str] = []
    for word in words:
        path = ROOT / word
        files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [file.relative_to(ROOT).as_posix() for file in files]
    return list(dict.fromkeys(found))


def prune(name: str) -> list[str]:
    """Take the rows that no longer fit the code out of a room's table; returns their ids. A row is one line."""
    stale = []
    for mutant in load_room(name).mutants:
        try:
            mutant.mutated()
        except (RowError, OSError):
            stale.append(mutant.id)
    path = TABLES / f"{name}.yaml"
    starts = tuple(f"    {id}: " for id in stale)
    if stale:
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(starts)))
    return stale


def errors(rooms: list[Room]) -> list[str]:
    """What is wrong with the rows of these rooms, one line a fault."""
    found = []
    for room in rooms:
        ids = [mutant.id for mutant in room.mutants]
        found += [f"{room.name}: {id}: expected once, found again" for id in sorted(set(ids)) if ids.count(id) > 1]
        found += [
            f"{room.name}: no such file of tests: {file}" for file in room.all_tests if not (ROOT / file).is_file()
        ]
        for mutant in room.mutants:
            try:
                mutant.mutated()
            except (RowError, OSError) as error:
                found.append(str(error))
    return found
