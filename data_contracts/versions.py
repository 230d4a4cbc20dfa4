"""Installed versions of the packages that decide pixels and scores, and when a change of them counts."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

DECIDING = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "torch",
    "open_clip_torch",
    "timm",
    "diffusers",
    "transformers",
)


def package_versions(
    names: tuple[str, ...] = ("maskmill", "torch", "open_clip_torch", "timm", "pyarrow", "polars"),
) -> dict[str, str]:
    """Installed versions of the packages that shape a result."""
    return {name: _version(name) for name in names}


def deciding_versions() -> dict[str, str]:
    """What a shard's footer records."""
    return {name: found for name in DECIDING if (found := _version(name)) != "not installed"}


def changes(made_with: Mapping[str, str], *, major: bool = False) -> list[str]:
    """Packages whose version is not the one that a shard was made with, in words; with `major`, those whose major part
    is not (of versions below 1, the second part): results may differ then, so the shard is made again. Shards of
    earlier versions of maskmill record none, and count as made with these.
    """
    now = deciding_versions()
    pairs = ((name, before, now.get(name, "not installed")) for name, before in sorted(made_with.items()))
    return [f"{name} {b}, now {n}" for name, b, n in pairs if (_major(b) != _major(n) if major else b != n)]


def _major(version: str) -> tuple[str, ...]:
    parts = version.split(".")
    return tuple(parts[:2]) if parts[0] == "0" else tuple(parts[:1])


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
