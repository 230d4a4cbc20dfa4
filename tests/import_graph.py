"""Who imports whom, read from the sources: every `import`, those inside functions and under TYPE_CHECKING included."""

import ast
import os
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

Graph = dict[str, set[str]]  # module → modules that it names in an import


def import_graph(package: Path) -> Graph:
    """The graph of a package's own modules; links to folders are followed."""
    files = {_name(path, package): path for path in _sources(package)}
    return {name: set(_imports(name, path, files)) - {name} for name, path in files.items()}


def among_siblings(graph: Graph, parent: str) -> Graph:
    """The graph of the children of a package: A → B where anything in A imports anything in B."""
    found: Graph = {}
    for name, imports in graph.items():
        if (here := _child(name, parent)) is not None:
            others = {_child(other, parent) for other in imports} - {here, None}
            found.setdefault(here, set()).update(other for other in others if other)
    return found


def check_no_circle(graph: Graph) -> None:
    """Raises graphlib.CycleError, which holds the circle, where there is one."""
    TopologicalSorter(graph).prepare()


def upward(graph: Graph, layers: list[list[str]]) -> list[str]:
    """Imports, as "A → B", that go up the layers (the top one comes first) or between rooms of one layer."""
    floor = {name: number for number, layer in enumerate(layers) for name in layer}
    return [
        f"{name} → {other}"
        for name, imports in sorted(graph.items())
        for other in sorted(imports)
        if name in floor and other in floor and floor[other] <= floor[name]
    ]


def top_level_names(path: Path) -> set[str]:
    """Top-level names of all that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def _sources(package: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(package, followlinks=True):
        yield from (Path(folder) / name for name in names if name.endswith(".py"))


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, files: dict[str, Path]) -> Iterator[str]:
    own = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (found for alias in node.names if (found := _known(alias.name, files)))
        elif isinstance(node, ast.ImportFrom):
            start = own.split(".")[: len(own.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                if found := _known(f"{base}.{alias.name}", files):
                    yield found


def _known(name: str, files: dict[str, Path]) -> str | None:
    """The longest part of a dotted name that is a module."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name or None


def _child(name: str, parent: str) -> str | None:
    return name[len(parent) + 1 :].split(".")[0] if name.startswith(f"{parent}.") else None
