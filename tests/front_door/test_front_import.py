"""`import maskmill as mm`: costs nothing, gives what it promises, and tells type checkers the same."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maskmill as mm

PACKAGE = Path(mm.__file__).parent
HEAVY = ("torch", "polars", "pyarrow", "prefect", "scipy", "cv2", "matplotlib", "numpy", "pydantic", "yaml")


def test_the_import_brings_no_other_package_along() -> None:
    code = "import sys, maskmill as mm; dir(mm); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not set(HEAVY) & set(loaded)
    assert [name for name in loaded if name.startswith("maskmill.")] == ["maskmill._checkout", "maskmill._cores"]


@pytest.mark.parametrize("name", mm.__all__)
def test_every_promised_name_is_there_and_explained(name: str) -> None:
    found = getattr(mm, name)
    assert found.__name__ == name
    assert found.__doc__
    assert name in dir(mm)


def test_the_version_is_the_distributions() -> None:
    assert mm.__version__[0].isdigit()


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'lode_run'.*load_run.*score_pairs"):
        mm.lode_run  # noqa: B018


def test_type_checkers_see_the_names_where_they_are_taken_from() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("maskmill.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == mm._HOMES
    assert sorted(seen) == sorted(mm.__all__)
    assert (PACKAGE / "py.typed").is_file()
