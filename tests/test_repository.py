"""The repository as a house: what its first page and its files promise."""

import ast
import re
import subprocess
import sys
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


def test_pictures_and_links_in_the_docs_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
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


def test_no_large_file_and_a_small_checkout() -> None:
    sizes = {path: path.stat().st_size for path in tracked_files()}
    assert max(sizes.values()) < 40e6
    assert sum(sizes.values()) < 120e6


def test_weights_are_never_unpickled() -> None:
    for path in tracked_files():
        if path.suffix == ".py" and path != Path(__file__):
            for call in re.findall(r"torch\.load\([^)]*\)", path.read_text()):
                assert "weights_only=True" in call, f"{path}: {call}"


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_flows_hold_no_model_code_and_nothing_imports_them() -> None:
    # import-linter reads packages only; flows.py is a module.
    allowed = {"prefect", "prefect_ray", "pydantic", "pipelines"}
    assert imported(ROOT / "flows.py") <= allowed | sys.stdlib_module_names
    for path in tracked_files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests":
            assert "flows" not in imported(path), path
