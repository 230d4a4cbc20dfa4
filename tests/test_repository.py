"""The repository as a house: what its first page and its files promise."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def test_readme_promises_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_no_environment_is_tracked_and_links_stay_inside() -> None:
    for path in tracked_files():
        assert path.name != ".venv"
        assert not (path.is_symlink() and path.readlink().is_absolute()), f"{path} leaves the tree"


def test_pictures_and_links_in_the_docs_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_benchmarks_that_the_docs_name_can_be_run() -> None:
    for path in tracked_files():
        if path.suffix not in (".md", ".py") or path.relative_to(ROOT).parts[0] in ("tests", "maskmill"):
            continue
        for name in re.findall(r"python -m (benchmarks(?:\.\w+)+)", path.read_text()):
            place = ROOT / name.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), f"{path}: {name}"


NAMED = re.compile(
    r"(?<![\w./-])(?:maskmill[./])?((?:data_contracts|vision|generators|curation|trainers|labelers|pipelines|starter|benchmarks"
    r"|configs|tests|docs)(?:/[\w./-]*\w|(?:\.(?!md\b)[a-z_0-9]+)+))"
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "starter").glob("**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    for name in NAMED.findall(page.read_text()):
        assert exists(name), f"{page.name} names {name}, which is not there"


def exists(name: str) -> bool:
    """A path of this repository (its suffix may be left out), or a dotted module with or without a name in it."""
    if "/" in name:
        return any((ROOT / f"{name}{suffix}").exists() for suffix in ("", ".py", ".yaml"))
    parts = name.split(".")
    while not (found := ROOT.joinpath(*parts)).is_dir() and not found.with_suffix(".py").is_file():
        parts.pop()
    rest = name.split(".")[len(parts) :]
    source = found.with_suffix(".py") if found.with_suffix(".py").is_file() else found / "__init__.py"
    return not rest or rest[0] in source.read_text()


def test_imports_in_the_docs_can_be_done() -> None:
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("maskmill."):
                    for alias in node.names:
                        name = f"{node.module}.{alias.name}"
                        assert exists(name.removeprefix("maskmill.")), f"{page.name} imports {name}, which is not there"


def test_no_large_file_and_a_small_checkout() -> None:
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert max(sizes.values()) < 40e6
    assert sum(sizes.values()) < 120e6


def test_weights_are_never_unpickled() -> None:
    for path in tracked_files():
        if path.suffix == ".py" and path != Path(__file__):
            for call in re.findall(r"torch\.load\([^)]*\)", path.read_text()):
                assert "weights_only=True" in call, f"{path}: {call}"


DOORS = {  # what opens a format -> the only modules that may call it
    r"\byaml\.(safe_|full_|unsafe_)?load\b|SafeLoader": {"data_contracts/texts.py", "starter/"},
    r"\bfromstring\(|ElementTree\.parse\(|minidom": {"data_contracts/texts.py"},
    r"\bjson\.loads?\((?!json\.dumps|_json\()": {
        "data_contracts/texts.py",
        "pipelines/ingest/spill.py",  # what it wrote itself
        "pipelines/export/runner.py",  # records of its own export, as large as they are
        "pipelines/core/lease.py",  # a lock of one line
        "pipelines/core/index.py",  # a cache of its own
        "pipelines/cli/server.py",  # answers of the Prefect server
        "starter/",
    },
    r"\bImage\.open\(": {"data_contracts/image_files.py", "starter/"},
    r"\bimdecode\(|\bimread\(": {"data_contracts/images.py"},
    r"\bnp\.load\(|\bnumpy\.load\(": {"pipelines/ingest/mask_files.py", "vision/clip/text.py", "starter/"},
    r"\bpickle\.loads?\(|\btorch\.hub\b|\btorch\.jit\.load\(|joblib|dill\b": {
        "vision/weights.py"
    },  # reads and never runs
}
ROOMS = (
    "data_contracts",
    "vision",
    "generators",
    "curation",
    "trainers",
    "labelers",
    "pipelines",
    "starter",
    "flows.py",
)


def test_every_format_has_one_door() -> None:
    for path in tracked_files():
        place = path.relative_to(ROOT).as_posix()
        if path.suffix != ".py" or not place.startswith(ROOMS):
            continue
        code = re.sub(r'"[^"\n]*"', '""', path.read_text())
        for call, doors in DOORS.items():
            if (found := re.search(call, code)) is not None:
                assert place.startswith(tuple(doors) or ("-",)), f"{place}: {found.group()} beside its door"
