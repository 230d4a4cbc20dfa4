"""Documents that carry their own hash, and lists of hashes: no changed byte goes unseen."""

import json
from pathlib import Path

import pytest

from maskmill.data_contracts.sums import Listed, carries_check, checked_json, json_fault, read_list

DOCUMENT = {"name": "x", "rows": 3, "inner": {"a": [1, 2]}}


def test_any_flipped_bit_of_a_document_is_seen() -> None:
    data = checked_json(DOCUMENT)
    assert (json_fault(data), carries_check(data)) == (None, True)
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            assert json_fault(bytes(changed)), (position, bit)
            assert carries_check(bytes(changed)), (position, bit)


@pytest.mark.parametrize("size", [0, 1, 10, -1, -20, -50])
def test_a_cut_document_is_seen(size: int) -> None:
    cut = checked_json(DOCUMENT)[:size]
    assert json_fault(cut)
    assert carries_check(cut)


def test_documents_of_others_are_let_alone() -> None:
    for document in ({}, DOCUMENT, {"model.bin": "0" * 32}, {"check": "done"}, []):
        assert not carries_check(json.dumps(document, indent=2).encode() + b"\n")


def test_a_list_holds_what_was_written_and_speaks_of_nothing_else(tmp_path: Path) -> None:
    with Listed(str(tmp_path)) as files:
        files.write("a.txt", b"1")
        files.write("deep/b.txt", b"2")
    with Listed(str(tmp_path), more=True) as files:
        files.write("c.txt", b"3")
    assert list(read_list(str(tmp_path))) == ["a.txt", "c.txt", "deep/b.txt"]
    Listed(str(tmp_path)).write("a.txt", b"4")  # and cut off before the end of the block
    assert read_list(str(tmp_path)) == {}
