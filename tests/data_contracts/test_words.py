"""Words from data: they do nothing to a terminal, and are words in Markdown."""

import pytest

from maskmill.data_contracts.words import in_markdown, visible


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
