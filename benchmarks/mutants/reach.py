"""Which tests can notice a change: found once a file of tests by running it under coverage, and kept.

Lines are remembered by their text inside their function, not by number, so that a map outlives changes elsewhere in the
file. A line that no map knows is looked for by its function, and a function that no map knows is everybody's.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from benchmarks.mutants.child import map_file
from benchmarks.mutants.fork import Task, run_all
from benchmarks.mutants.table import ROOT, Mutant

MAP_SECONDS = 900.0
MODULE = ""  # the function of lines that run when a module is imported


@dataclass
class Reach:
    """What is known of one file of tests: seconds of each test, and tests by file, function and text of a line."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    lines: dict[str, dict[str, dict[str, list[int]]]] = field(default_factory=dict)

    def tests(self, mutant: Mutant) -> set[str]:
        """Tests that run the changed statement; all that run its function where it is not known."""
        names = list(self.seconds)
        functions = self.lines.get(mutant.file, {})
        where = _functions(mutant.file)
        texts = mutant.source.splitlines()
        found: set[str] = set()
        for number in mutant.lines():
            inside = functions.get(where(number), {})
            indices = inside.get(texts[number - 1].strip())
            if where(number) == MODULE and indices is not None:
                found |= set(names)  # what a module does when it is imported shows in any test after that
            found |= {names[i] for i in indices or ()}
        if found:
            return found
        return {names[i] for n in mutant.lines() for inside in functions.get(where(n), {}).values() for i in inside}


def load(files: Iterable[str], cache_dir: Path, jobs: int, say: Callable[[str], None]) -> dict[str, Reach]:
    """The reach of each file of tests, from `cache_dir` where it has not changed since; none without coverage."""
    files = list(files)
    if importlib.util.find_spec("coverage") is None:
        return {}
    stale = [file for file in files if not _kept(file, cache_dir).is_file()]
    tasks = [Task(file, partial(_map, file, cache_dir), MAP_SECONDS) for file in stale]
    for done, ended in enumerate(run_all(tasks, jobs), start=1):
        say(f"map {done}/{len(tasks)}: {ended.task.name}, {ended.seconds:.0f} s")
        if not _kept(ended.task.name, cache_dir).is_file():
            raise RuntimeError(f"{ended.task.name}: no map of its tests (exit {ended.code}):\n{ended.output[-2000:]}")
    return {file: Reach(**json.loads(_kept(file, cache_dir).read_text())) for file in files}


def _map(file: str, cache_dir: Path, scratch: Path) -> int:
    code = map_file(file, scratch, scratch / "map.json")
    raw = json.loads((scratch / "map.json").read_text())
    index = {name: i for i, name in enumerate(raw["seconds"])}
    lines: dict[str, dict[str, dict[str, list[int]]]] = {}
    for path, by_number in raw["lines"].items():
        if not path.endswith(".py"):  # a template, compiled to lines of its own
            continue
        texts, where = (ROOT / path).read_text(encoding="utf-8").splitlines(), _functions(path)
        for number, tests in by_number.items():
            if not 0 < int(number) <= len(texts):  # an empty file has a line of code that is none of its own
                continue
            inside = lines.setdefault(path, {}).setdefault(where(int(number)), {})
            found = {index[name] for name in tests if name in index}
            key = texts[int(number) - 1].strip()
            inside[key] = sorted({*inside.get(key, ()), *found})
    target = _kept(file, cache_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = {"seconds": raw["seconds"], "failed": raw["failed"], "lines": lines}
    (scratch / "kept.json").write_text(json.dumps(kept))
    target.write_bytes((scratch / "kept.json").read_bytes())
    return code


def _kept(file: str, cache_dir: Path) -> Path:
    digest = hashlib.blake2b((ROOT / file).read_bytes(), digest_size=8).hexdigest()
    return cache_dir / "maps" / f"{file.replace('/', '.')}-{digest}.json"


def _functions(file: str) -> Callable[[int], str]:
    """From a line number to the name of the innermost function around it; "" where there is none."""
    spans = _spans(file, (ROOT / file).stat().st_mtime_ns)

    def of(number: int) -> str:
        return max(((start, name) for start, end, name in spans if start <= number <= end), default=(0, MODULE))[1]

    return of


@cache
def _spans(file: str, _changed: int) -> list[tuple[int, int, str]]:
    found = []

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    found.append((child.body[0].lineno, child.end_lineno or child.lineno, name))
            walk(child, name)

    walk(ast.parse((ROOT / file).read_text(encoding="utf-8")), "")
    return found
