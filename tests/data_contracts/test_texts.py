"""YAML, JSON and XML of others: what is read, what is refused, and that refusing costs nothing."""

import json
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.data_contracts.texts import DEPTH, MOST_DIGITS, TextError, parse_json, parse_xml, parse_yaml

Plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(Plain)
def test_json_is_what_it_was(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc"), st.lists(st.integers() | st.text("abc ")), max_size=4))
def test_yaml_is_what_it_was(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


def test_small_things() -> None:
    assert parse_yaml("") is None
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\n") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert parse_json("[1" + "0" * (MOST_DIGITS - 1) + "]") == [10 ** (MOST_DIGITS - 1)]
    assert parse_json("[1" + "0" * 999 + "]") == [float("inf")]
    assert parse_json("[" * DEPTH + "]" * DEPTH)
    assert parse_xml(b"<a><b/></a>").find("b") is not None
    assert parse_xml('<?xml version="1.0" encoding="gb2312"?><a>\u732b</a>'.encode("gb2312")).text == "\u732b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "line 1"),
        ("a:\tb\n", "line 1, column 3"),
        ("[" * 101 + "]" * 101, "100 deep"),
        ("[" * 50_000, "100 deep"),
        ("- " * 3000 + "a", "100 deep"),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: !!python/name:os.system", "constructor"),
        ("a: " + "9" * 101, "100 digits"),
        ("{[a]: b}", "not YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1, column 1"),
        ('{"a": ', "not JSON"),
        ("[" * 101 + "]" * 101, "100 deep"),
        ("[" * 100_000 + "]" * 100_000, "100 deep"),
        ("[" + "[]," * 2_000_001 + "[]]", "brackets and keys"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not XML"),
        (b"<a>", "not XML"),
        (b"<!DOCTYPE a><a/>", "document type"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b"<a>" + b"<b/>" * 2_000_001 + b"</a>", "tags"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "klingon"),
    ],
)
def test_xml_that_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_xml(text)


@pytest.mark.parametrize("levels", [7, 9])
def test_aliases_of_aliases_are_counted_and_not_followed(levels: int) -> None:
    names = "abcdefghijk"[:levels]
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(names)
    )
    with pytest.raises(TextError, match="aliases"):
        parse_yaml(text)
