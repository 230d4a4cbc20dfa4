"""Which tokens of a class prompt belong to which class, by the pipeline's own tokenizer.

A word-counting shortcut breaks after every name of several pieces ("aeroplane" is two for CLIP, "potted plant" two
words), so names are encoded one by one and their pieces counted. CLIP puts start-of-text at token 0 and end-of-text
behind; T5 has no start. For Gemma's and Qwen's tokenizers a blank belongs to the word behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.generators.words import fold


@dataclass(frozen=True)
class ClassPrompt:
    """A tokenised class prompt. `spans[k]` = (first, last + 1) token of class `class_ids[k]`."""

    text: str
    class_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids without start, end and padding."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def encode_behind(tokenizer: Any, word: str) -> list[int]:
    """Token ids of a word that stands behind another one."""
    return encode(tokenizer, f" {word}")


@dataclass(frozen=True)
class Window:
    """A tokenizer and what its text encoder takes: `length` tokens, of which the first `start` and the last one are its
    own.
    """

    tokenizer: Any
    length: int
    start: int

    @classmethod
    def clip(cls, tokenizer: Any) -> "Window":
        """CLIP's: start-of-text, words, end-of-text."""
        return cls(tokenizer, tokenizer.model_max_length, 1)

    @classmethod
    def t5(cls, tokenizer: Any, at_most: int) -> "Window":
        """T5's: words, end-of-text."""
        return cls(tokenizer, min(tokenizer.model_max_length, at_most), 0)

    @property
    def room(self) -> int:
        """Tokens that are left for words."""
        return self.length - self.start - 1


def class_spans(window: Window, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
    """Tokenise the names joined by blanks and locate each of them.

    Raises:
        ContractError: no class, a repeated one, a span that does not read as its name again, or more tokens than the
        text encoder takes.
    """
    text = " ".join(names)
    if not names or len(set(class_ids)) < len(class_ids) or len(names) != len(class_ids):
        raise _bad(
            text, "one name for each of one or more different classes", f"ids {list(class_ids)}, names {list(names)}"
        )
    tokenizer = window.tokenizer
    pieces = [encode_behind(tokenizer, name) if at else encode(tokenizer, name) for at, name in enumerate(names)]
    whole = encode(tokenizer, text)
    if whole != [piece for own in pieces for piece in own]:
        raise _bad(text, "names that tokenise alone as they do together", f"{len(whole)} tokens in the prompt")
    if len(whole) > window.room:
        raise _bad(text, f"at most {window.room} tokens of class words", f"{len(whole)} tokens")
    spans, start = [], window.start
    for name, own in zip(names, pieces, strict=True):
        if not own or fold(tokenizer.decode(own)) != fold(name):
            raise _bad(text, f"tokens that read {name!r}", repr(tokenizer.decode(own)))
        spans.append((start, start + len(own)))
        start += len(own)
    return ClassPrompt(text, tuple(class_ids), tuple(spans))


def lineup_spans(window: Window, prompt: ClassPrompt, names: Sequence[str], others: Sequence[str]) -> ClassPrompt:
    """The classes of `prompt`, whose words are `names`, followed by as many `others` as fit the window: one prompt in
    which all of them are read. The others get the ids -1, -2, … in their order.
    """
    ids, words, spans, start = list(prompt.class_ids), list(names), list(prompt.spans), prompt.spans[-1][1]
    for number, other in enumerate(others, start=1):
        pieces = encode_behind(window.tokenizer, other)
        if not pieces or start + len(pieces) > window.start + window.room:
            continue
        ids.append(-number)
        words.append(other)
        spans.append((start, start + len(pieces)))
        start += len(pieces)
    return ClassPrompt(" ".join(words), tuple(ids), tuple(spans))


def fit_prompt(window: Window, prompt: str, class_prompt: str) -> tuple[str, bool]:
    """Shorten the caption in front of "; class words" until all class words are inside the text encoder's window.

    Returns the prompt and whether words were cut: without this a long caption silently pushes the classes out.
    """
    tokenizer, ending = window.tokenizer, f"; {class_prompt}"
    if len(encode(tokenizer, prompt)) <= window.room or not prompt.endswith(ending):
        return prompt, False
    words = prompt.removesuffix(ending).split()[: window.room]  # each is a token or more
    while words and len(encode(tokenizer, " ".join(words) + ending)) > window.room:
        words.pop()
    return (" ".join(words) + ending).removeprefix("; "), True


def occurrences(window: Window, prompt: str, names: Sequence[str]) -> list[list[int]]:
    """Token positions of every mention of each name in a prompt, start-of-text counted; longer names claim theirs
    first.
    """
    tokenizer = window.tokenizer
    tokens = encode(tokenizer, prompt)[: window.room]
    taken: set[int] = set()
    found: list[list[int]] = [[] for _ in names]
    for k in sorted(range(len(names)), key=lambda i: -len(encode(tokenizer, names[i]))):
        for pieces in (encode_behind(tokenizer, names[k]), encode(tokenizer, names[k])):
            for start in range(len(tokens) - len(pieces) + 1):
                here = range(start, start + len(pieces))
                if tokens[start : start + len(pieces)] == pieces and taken.isdisjoint(here):
                    taken.update(here)
                    found[k] += [position + window.start for position in here]
    return [sorted(positions) for positions in found]


def _bad(text: str, expected: str, found: str) -> ContractError:
    fix = "name other words for these classes in the prompt config's `words`, or ask for fewer classes"
    return ContractError(f"class prompt {text!r}", Problem(Reason.BAD_PROMPT, expected, found, fix))
