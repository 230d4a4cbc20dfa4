"""Hashes beside and inside small files: JSON documents that carry their own, and lists of other files' hashes."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from maskmill.data_contracts.errors import DamagedError
from maskmill.data_contracts.seal import bytes_hash, file_hash
from maskmill.data_contracts.storage import read_bytes, remove_file, write_bytes, write_if_changed
from maskmill.data_contracts.texts import TextError, parse_json

CHECK = "check"  # the key under which a document carries the hash of all its other keys
ANY = ord("?")
END = f'\n  "{CHECK}": "{"?" * 32}"\n}}\n'.encode()  # of a document; ? stands for a digit of the hash
LIST = "sums.json"  # hashes of the other files of a folder, by their paths


def checked_json(document: Mapping[str, Any]) -> bytes:
    """A document as JSON text with its own hash as last key. Same document, same bytes."""
    rest = {key: value for key, value in document.items() if key != CHECK}
    check = bytes_hash(_text(rest))
    return _text({**rest, CHECK: check})


def json_fault(data: bytes) -> str | None:
    """What is wrong with a text that `checked_json` wrote, every byte of it looked at; None where nothing is."""
    try:
        document = parse_json(data)
    except ValueError as error:
        return f"no JSON ({error})"
    if not isinstance(document, dict) or CHECK not in document:
        return f"no key {CHECK!r}"
    return None if checked_json(document) == data else "another content than was written"


def carries_check(data: bytes) -> bool:
    """Whether a file looks like one of `checked_json`: whole, with one byte of it changed, or cut."""
    return _ends(data) or _ends(data + b"\n") or (json_fault(data) or "").startswith("no JSON")


def _ends(data: bytes) -> bool:
    """Whether a text ends as documents do, but for one byte."""
    end = data[-len(END) :]
    changed = sum(found != wanted for found, wanted in zip(end, END, strict=False) if wanted != ANY)
    return len(end) == len(END) and changed <= 1


def sum_fault(path: str, wanted: str) -> str | None:
    """What is wrong with a file of which the hash is known; None where nothing is."""
    try:
        return None if file_hash(path) == wanted else "another content than was written"
    except FileNotFoundError:
        return "gone"


def read_json(path: str) -> dict[str, Any]:
    """A JSON document without its own hash.

    Raises:
        FileNotFoundError: no such file. DamagedError: no JSON object.
    """
    try:
        found = parse_json(read_bytes(path))
    except TextError as error:
        raise DamagedError(path, str(error)) from error
    if not isinstance(found, dict):
        raise DamagedError(path, f"a JSON {type(found).__name__}")
    found.pop(CHECK, None)
    return found


def _text(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


class Listed:
    """Writes the files of a folder, and at the end of the block a list of their hashes beside them, which `verify`
    reads. With `more` the list that is there is added to; else it goes first, so that it never speaks of other files.
    """

    def __init__(self, folder: str, *, more: bool = False) -> None:
        self._folder = folder.rstrip("/")
        self._sums: dict[str, str] = read_list(self._folder) if more else {}
        if not more:
            with suppress(FileNotFoundError):
                remove_file(f"{self._folder}/{LIST}")

    def __enter__(self) -> "Listed":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            write_if_changed(f"{self._folder}/{LIST}", checked_json(dict(sorted(self._sums.items()))))

    def write(self, name: str, data: bytes) -> str:
        """Write a file by its path in the folder; returns its path."""
        write_bytes(f"{self._folder}/{name}", data)
        self._sums[name] = bytes_hash(data)
        return f"{self._folder}/{name}"


def read_list(folder: str) -> dict[str, str]:
    """Hashes by path of the files that a folder lists; {} where it has no list, or a damaged one."""
    try:
        found = read_json(f"{folder}/{LIST}")
    except (FileNotFoundError, ValueError):
        return {}
    return {str(path): str(wanted) for path, wanted in found.items()}
