"""One mutant against the tests that can notice it, and what is remembered from one run to the next."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.mutants import hook
from benchmarks.mutants.child import Chosen, run_tests
from benchmarks.mutants.fork import Ended, Task, run_all
from benchmarks.mutants.reach import Reach
from benchmarks.mutants.table import ROOT, Mutant, Room

LEAST_SECONDS = 20.0  # of work, before a mutant counts as one that hangs
UNKNOWN_SECONDS = 20.0
SLOWER = 3  # times the seconds that its tests take otherwise


@dataclass(frozen=True)
class Outcome:
    """`killed`, `survived` or `explained`; and by which test, or how else, it was killed."""

    word: str
    by: str = ""


@dataclass(frozen=True)
class Plan:
    """The tests for one mutant: files in the order in which they run, the tests in them that count (None: all), all
    that are known, and the seconds that they take.
    """

    mutant: Mutant
    files: list[str]
    chosen: frozenset[str] | None
    known: frozenset[str]
    seconds: float


def plan(mutant: Mutant, files: Sequence[str], reach: dict[str, Reach]) -> Plan:
    """Choose the tests that run what the mutant changes, of files whose reach is known; of others all. Tests that fail
    without it count for nothing.
    """
    if not all(file in reach for file in files):
        return Plan(mutant, list(files), None, frozenset(), UNKNOWN_SECONDS)
    tests = {file: reach[file].tests(mutant) - set(reach[file].failed) for file in files}
    cost = {file: sum(reach[file].seconds[t] for t in these) for file, these in tests.items() if these}
    chosen = sorted(cost, key=lambda file: (cost[file], file))
    known = frozenset(t for file in chosen for t in reach[file].seconds)
    return Plan(mutant, chosen, frozenset(t for file in chosen for t in tests[file]), known, sum(cost.values()))


def run_room(
    room: Room, mutants: list[Mutant], reach: dict[str, Reach], memory: "Memory", jobs: int, say: Callable[[str], None]
) -> dict[str, Outcome]:
    """The outcome of each mutant, by id."""
    outcomes, tasks, plans = {}, [], {}
    for mutant in mutants:
        if mutant.explained is not None:
            outcomes[mutant.id] = Outcome("explained", mutant.explained)
        elif (known := memory.get(mutant, room)) is not None:
            outcomes[mutant.id] = known
        elif not (found := plan(mutant, room.tests_of(mutant.file), reach)).files:
            outcomes[mutant.id] = Outcome("survived", "no test runs it")
        else:
            plans[mutant.id] = found
            limit = LEAST_SECONDS + SLOWER * found.seconds
            tasks.append(Task(mutant.id, partial(_work, found, memory.folder / "overlays"), limit))
    for done, ended in enumerate(run_all(tasks, jobs), start=1):
        outcome = _outcome(ended)
        outcomes[ended.task.name] = outcome
        memory.put(plans[ended.task.name].mutant, room, outcome)
        say(f"{room.name} {done}/{len(tasks)}: {ended.task.name} {outcome.word} {outcome.by}, {ended.seconds:.0f} s")
    return {mutant.id: outcomes[mutant.id] for mutant in mutants}


def _work(found: Plan, _: Path, scratch: Path) -> int:
    """In the child: put the changed module in place, for this process and what it starts, and run the tests."""
    overlay = scratch / "overlay"
    overlay.mkdir()
    (overlay / "changed.py").write_text(found.mutant.mutated(), encoding="utf-8")
    (overlay / "sitecustomize.py").write_bytes(Path(hook.__file__).read_bytes())
    os.environ |= {hook.WHERE: str(ROOT / found.mutant.file), hook.TEXT: str(overlay / "changed.py")}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(overlay), str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.chdir(ROOT)
    hook.install()
    plugin = Chosen(found.chosen, found.known)
    code = run_tests(found.files, plugin, scratch, stop=True)
    print(f"\nfirst to fail: {plugin.failed[0] if plugin.failed else ''}")
    return code


def _outcome(ended: Ended) -> Outcome:
    if ended.code is None:
        return Outcome("killed", "out of time")
    if ended.code in (0, 5):
        return Outcome("survived")
    said = ended.output.rpartition("first to fail: ")[2].strip()
    return Outcome("killed", said.splitlines()[0] if said else f"exit {ended.code}")


class Memory:
    """Outcomes of earlier runs. A killed mutant is dead while it and the file of the test that killed it are as they
    were; one that survived is tried again when any of the room's tests changed.
    """

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self.folder = folder
        self._path = folder / "outcomes.json"
        self._kept = json.loads(self._path.read_text()) if self._path.is_file() and not fresh else {}

    def get(self, mutant: Mutant, room: Room) -> Outcome | None:
        kept = self._kept.get(f"{room.name}:{mutant.id}")
        if kept is None or kept["mutated"] != _hash(mutant.mutated()):
            return None
        outcome = Outcome(**kept["outcome"])
        return outcome if kept["tests"] == self._tests(outcome, room.tests_of(mutant.file)) else None

    def put(self, mutant: Mutant, room: Room, outcome: Outcome) -> None:
        tests = self._tests(outcome, room.tests_of(mutant.file))
        kept = {"mutated": _hash(mutant.mutated()), "tests": tests, "outcome": asdict(outcome)}
        self._kept[f"{room.name}:{mutant.id}"] = kept
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path.with_suffix(".tmp").write_text(json.dumps(self._kept, indent=1))
        os.replace(self._path.with_suffix(".tmp"), self._path)

    @staticmethod
    def _tests(outcome: Outcome, files: Sequence[str]) -> str:
        by = outcome.by.split("::")[0]
        files = [by] if (ROOT / by).is_file() else files
        return _hash("".join(_hash((ROOT / file).read_text(encoding="utf-8")) for file in files))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
