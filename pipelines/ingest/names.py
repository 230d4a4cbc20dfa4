"""Names of files, and text, as other machines write them."""

import unicodedata


def folded(path: str) -> str:
    """A path in the one Unicode form that paths are compared in."""
    return unicodedata.normalize("NFC", path)


def loose(path: str) -> str:
    """A path in any Unicode form and any case."""
    return folded(path).casefold()


def is_hidden(path: str) -> bool:
    """Whether the name of a file or folder starts with a dot."""
    return path.rstrip("/").rsplit("/", 1)[-1].startswith(".")


def other_encoding(error: UnicodeDecodeError) -> str:
    """What to say of a text that is no UTF-8."""
    odd = f"found the byte 0x{error.object[error.start]:02x}"
    fix = "save it as UTF-8, e.g. `iconv -f gbk -t utf-8` for Chinese, `-f cp1252` for Western Windows"
    return f"expected text in UTF-8, {odd}, which stands in another encoding. Fix: {fix}"
