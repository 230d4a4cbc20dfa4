"""Words from data: they do nothing to a terminal, and are words in Markdown."""

import pytest

from maskmill.data_contracts.words import close_to, did_you_mean, in_markdown, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ÄÖ 中 \t\n", "plain ÄÖ 中 \t\n"),
        ("/no\x1b]0;owned\x07\x1b[2J", "/no\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\rb\x08\x7f\x9b", "a\\rb\\x08\\x7f\\x9b"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
    ],
)
def test_nothing_reaches_the_terminal_but_text(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat on a mat_2", "a cat on a mat_2"),
        ("# big\n\n<script>x</script>", "\\# big &lt;script&gt;x&lt;/script&gt;"),
        ("[here](javascript:x) `a` | *b*", "\\[here\\](javascript:x) \\`a\\` \\| \\*b\\*"),
        ("1. first", "1\\. first"),
        ("- item & more", "\\- item &amp; more"),
        ("CC-BY-4.0", "CC-BY-4.0"),
    ],
)
def test_words_stay_words_in_markdown(text: str, shown: str) -> None:
    assert in_markdown(text) == shown


def test_long_words_are_cut() -> None:
    assert len(in_markdown("x" * 10_000)) == 501


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("ABD", ["abd"]),
        (" adb", ["abd"]),
        ("we-clip", ["we_clip", "weclip"]),
        ("STRASSE", ["Straße"]),
        ("zzz", []),
    ],
)
def test_words_that_look_alike(word: str, found: list[str]) -> None:
    assert close_to(word, ["abd", "weclip", "we_clip", "Straße"]) == found


def test_the_best_of_many_are_named() -> None:
    known = ["mask1", "mask2", "mask3", "mask4"]
    assert len(close_to("mask", known)) == 3
    assert did_you_mean("adb", ["abd", "x"]) == "; did you mean 'abd'?"
    assert did_you_mean("mask", known).count("'") == 4
    assert did_you_mean("zzz", known) == ""


def test_a_line_is_cut_behind_its_limit() -> None:
    assert in_markdown("abc", most=3) == "abc"
    assert in_markdown("abcd", most=3) == "abc…"
    assert in_markdown("ab  \n c") == "ab c"
