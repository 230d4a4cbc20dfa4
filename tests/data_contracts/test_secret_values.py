"""Values from the environment: used inside, given back as references, and never said."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from maskmill.data_contracts import secrets
from maskmill.data_contracts.secrets import credentials_at, expand, portable, public, published, redact


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KEY": "hunter22", "LONGER": "hunter22-and-more", "PIN": "123", "FOUR": "1234"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIST", "[a, b]")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setattr(secrets, "_references", {})
    monkeypatch.setattr(secrets, "_values", {})


class Config(BaseModel):
    root: str
    inner: dict[str, list[str]] = {}
    count: int = 3


def test_what_is_used_is_published_as_it_was_written() -> None:
    given = {"root": "x/$KEY/y", "inner": {"many": ["${KEY}", "plain"]}, "count": 7}
    used = expand(given)
    assert used == {"root": "x/hunter22/y", "inner": {"many": ["hunter22", "plain"]}, "count": 7}
    assert published(Config.model_validate(used)) == given
    assert public("hunter22") == "${KEY}"
    assert public("plain") == "plain"


def test_words_for_people_and_names_that_are_not_set_stay() -> None:
    assert expand({"licence": "$KEY", "root": "$UNSET/a"}) == {"licence": "$KEY", "root": "$UNSET/a"}
    assert expand({"prompt": ["$KEY"]}) == {"prompt": ["$KEY"]}
    assert public("$UNSET/a") == "$UNSET/a"


def test_a_variable_may_hold_a_whole_list() -> None:
    assert expand("$LIST") == ["a", "b"]
    assert expand("in $LIST") == "in [a, b]"
    assert expand("$KEY") == "hunter22"
    assert expand("$PIN") == "123"  # a text stays one
    assert expand("[$FOUR, x]") == "[1234, x]"


def test_messages_show_the_name_of_the_longest_value_that_is_worth_hiding(tmp_path: Path) -> None:
    expand(["$KEY", "$LONGER", "$PIN", "$FOUR"])
    assert redact("no hunter22-and-more, no hunter22, 123") == "no $LONGER, no $KEY, 123"
    assert redact("pin 1234") == "pin $FOUR"


def test_paths_that_exist_are_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("GONE", str(tmp_path / "gone"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").touch()  # a secret that happens to be the name of a file stays a secret
    monkeypatch.setenv("WORD", "token")
    expand(["$HERE", "$GONE", "$WORD"])
    assert redact(f"{tmp_path}/gone and {tmp_path}") == f"$GONE and {tmp_path}"
    assert redact("a token") == "a $WORD"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:word@bucket/x", "s3://***@bucket/x"),
        ("https://h/x?a=1&token=abc&b=2", "https://h/x?a=1&token=***&b=2"),
        ("https://h/x?X-Amz-Signature=abc'", "https://h/x?X-Amz-Signature=***'"),
        ("https://h/x?SIG=abc", "https://h/x?SIG=***"),
        ("https://h/x?page=3", "https://h/x?page=3"),
        ("mail me@home", "mail me@home"),
    ],
)
def test_credentials_in_urls_are_starred(text: str, shown: str) -> None:
    assert redact(text) == public(text) == shown


def test_the_place_of_spelt_out_credentials_is_named() -> None:
    assert credentials_at({"a": 1, "source": {"roots": ["/x", "s3://k:w@b"]}}) == "source.roots.1"
    assert credentials_at({"a": "/x", "b": ["y"], "c": None}) is None
    used = expand({"root": "s3://$KEY:w@b"})
    assert credentials_at(used) is None  # it came from the environment


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("/home/me/data/pets", "…/pets"),
        ("/home/me/data/pets/", "…/pets"),
        ("~/sd15", "…/sd15"),
        ("file:///srv/pets", "…/pets"),
        ("C:\\Users\\me\\pets", "…/pets"),
        ("data/pets", "data/pets"),
        ("s3://bucket/pets", "s3://bucket/pets"),
        ("$DATA/pets", "$DATA/pets"),
        ("/(?P<key>[^/]+)", "/(?P<key>[^/]+)"),
        ("a photo of {objects}", "a photo of {objects}"),
    ],
)
def test_what_travels_holds_no_place_of_this_machine(text: str, stays: str) -> None:
    assert portable({"a": [text, 1, None]}) == {"a": [stays, 1, None]}
