"""Setting up: the constraints are for these dependencies, and the container's recipe copies what it needs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?:\s*;.*)?$")
ALONE = {"datumaro"}  # holds other packages back, so it has an environment of its own


def pins() -> dict[str, set[str]]:
    """Versions of each package; a platform may have one of its own."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = PINS.match(line)
            assert match, line
            found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]


@pytest.mark.parametrize("one", wanted(), ids=str)
def test_constraints_hold_versions_within_the_ranges(one: Requirement) -> None:
    if one.name in ALONE:
        return
    versions = pins().get(canonicalize_name(one.name))
    assert versions, f"{one.name} has no version in constraints.txt: make constraints"
    assert all(one.specifier.contains(version) for version in versions), (one, versions)


def test_constraints_name_no_place() -> None:
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_the_container_finds_what_it_copies() -> None:
    recipe, left_out = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text().split()
    copied = re.search(r"^COPY (pyproject.*) \./$", recipe, re.MULTILINE)
    assert copied
    for name in copied[1].split():
        assert (ROOT / name).is_file()
        assert name not in left_out
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not {"maskmill", "flows.py", "configs", "starter"} & set(left_out)
    for name in re.findall(r"^ARG (?:ACCELERATOR|EXTRAS)=(\w+)$", recipe, re.MULTILINE):
        assert name in project["project"]["optional-dependencies"]
    assert "\nUSER maskmill\n" in recipe
