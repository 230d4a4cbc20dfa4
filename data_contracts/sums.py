"""Hashes beside and inside small files: JSON documents that carry their own, and lists of other files' hashes."""

import json
from collections.abc import Mapping
from typing import Any

from maskmill.data_contracts.seal import bytes_hash, file_hash
from maskmill.data_contracts.storage import read_bytes

CHECK = "check"  # the key under which a document carries the hash of all its other keys


def checked_json(document: Mapping[str, Any]) -> bytes:
    """A document as JSON text with its own hash as last key. Same document, same bytes."""
    rest = {key: value for key, value in document.items() if key != CHECK}
    check = bytes_hash(_text(rest))
    return _text({**rest, CHECK: check})


def json_fault(data: bytes) -> str | None:
    """What is wrong with a text that `checked_json` wrote, every byte of it looked at; None where nothing is."""
    try:
        document = json.loads(data)
    except ValueError as error:
        return f"no JSON ({error})"
    if not isinstance(document, dict) or CHECK not in document:
        return f"no key {CHECK!r}"
    return None if checked_json(document) == data else "another content than was written"


def carries_check(data: bytes) -> bool:
    """Whether a file looks like one of `checked_json`, damaged or not."""
    return f'"{CHECK}": "'.encode() in data[-64:]


def sum_fault(path: str, wanted: str) -> str | None:
    """What is wrong with a file of which the hash is known; None where nothing is."""
    try:
        return None if file_hash(path) == wanted else "another content than was written"
    except FileNotFoundError:
        return "gone"


def read_json(path: str) -> dict[str, Any]:
    """A JSON document without its own hash.

    Raises:
        FileNotFoundError, ValueError: as for any JSON file.
    """
    found: dict[str, Any] = json.loads(read_bytes(path))
    found.pop(CHECK, None)
    return found


def _text(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
