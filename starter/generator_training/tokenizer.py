"""A CLIP tokenizer cut down to the words that the starter generator knows; any other text still tokenises, in smaller
pieces.

The merge that byte-pair encoding applies next depends on the pairs at hand only, so a table that keeps every merge
which a word runs through, in the old order, gives that word exactly CLIP's pieces.
"""

import gzip
import json
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # CLIP reads this many lines of its merges file


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes, in CLIP's order (printable bytes first)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_merges() -> list[tuple[str, str]]:
    """CLIP's merges, best first, from the file inside the open_clip package."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip is not installed; CLIP's vocabulary is read from its package")
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    return [(left, right) for left, right in (line.split() for line in lines)]


def merges_of(word: str, ranks: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The merges that byte-pair encoding applies to one word, in order of use."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    used = []
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        used.append(best)
        pieces = _merge(pieces, best)
    return used


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(pieces):
        both = tuple(pieces[i : i + 2]) == pair
        merged.append("".join(pair) if both else pieces[i])
        i += 2 if both else 1
    return merged


def write_tokenizer(folder: Path, words: Iterable[str], max_length: int) -> int:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json`; returns the size of the vocabulary."""
    merges = clip_merges()
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    used = {pair for word in words for pair in merges_of(word, ranks)}
    kept = [pair for pair in merges if pair in used]
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in kept), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in kept)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return len(vocab)
