"""Which tokens of a class prompt belong to which class, by the pipeline's own tokenizer.

A word-counting shortcut breaks after every name of several pieces ("aeroplane" is two for CLIP, "potted plant" two
words), so names are encoded one by one and their pieces counted; token 0 is start-of-text.
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


def class_spans(tokenizer: Any, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
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
    pieces = [encode(tokenizer, name) for name in names]
    whole = encode(tokenizer, text)
    if whole != [piece for own in pieces for piece in own]:
        raise _bad(text, "names that tokenise alone as they do together", f"{len(whole)} tokens in the prompt")
    room = tokenizer.model_max_length - 2
    if len(whole) > room:
        raise _bad(text, f"at most {room} tokens of class words", f"{len(whole)} tokens")
    spans, start = [], 1
    for name, own in zip(names, pieces, strict=True):
        if not own or fold(tokenizer.decode(own)) != fold(name):
            raise _bad(text, f"tokens that read {name!r}", repr(tokenizer.decode(own)))
        spans.append((start, start + len(own)))
        start += len(own)
    return ClassPrompt(text, tuple(class_ids), tuple(spans))


def fit_prompt(tokenizer: Any, prompt: str, class_prompt: str) -> tuple[str, bool]:
    """Shorten the caption in front of "; class words" until all class words are inside the text encoder's window.

    Returns the prompt and whether words were cut: without this a long caption silently pushes the classes out.
    """
    ending = f"; {class_prompt}"
    if len(encode(tokenizer, prompt)) <= tokenizer.model_max_length - 2 or not prompt.endswith(ending):
        return prompt, False
    words = prompt.removesuffix(ending).split()
    while words and len(encode(tokenizer, " ".join(words) + ending)) > tokenizer.model_max_length - 2:
        words.pop()
    return (" ".join(words) + ending).removeprefix("; "), True


def _bad(text: str, expected: str, found: str) -> ContractError:
    fix = "name other words for these classes in the prompt config's `words`, or ask for fewer classes"
    return ContractError(f"class prompt {text!r}", Problem(Reason.BAD_PROMPT, expected, found, fix))
