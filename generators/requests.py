"""One image to draw: its prompt, the words of its classes, and its seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, sample_seed
from maskmill.generators.words import fold, spelled_out


@dataclass(frozen=True)
class Request:
    """One image to draw. `names` are the words that stand for `class_ids` in the class prompt, in the same order;
    `scene` is what the prompt says of the surroundings; `others` are words of classes that nobody asked for, in an
    order of this request's own.
    """

    prompt: str
    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    seed: int
    negative_prompt: str | None = None
    prompt_id: str | None = None
    scene: str | None = None
    others: tuple[str, ...] = ()

    @property
    def class_prompt(self) -> str:
        return " ".join(self.names)

    def rivals(self, background: Sequence[str]) -> tuple[str, ...]:
        """Words that compete with the classes for every place of the image: the scene and the background, without
        those that are a class's own name.
        """
        words = ([self.scene] if self.scene else []) + list(background)
        taken = {fold(name) for name in self.names}
        return tuple(word for word in dict.fromkeys(words) if fold(word) not in taken)


def names_of(class_prompt: str, class_ids: Sequence[int], space: LabelSpace) -> tuple[str, ...]:
    """The name of each class inside a class prompt, e.g. "potted plant dog" and ids 16, 12 to ("potted plant", "dog").

    A word that the space does not know is taken as it is where there are as many words as classes.

    Raises:
        ContractError: the prompt does not spell these classes in this order.
    """
    names: list[str] = []
    rest = class_prompt.strip()
    for class_id in class_ids:
        label = space.by_id.get(class_id)
        known = [] if label is None else [spelled_out(label), label.name, label.text, *label.synonyms]
        fitting = [k for k in known if (rest + " ").lower().startswith(k.lower() + " ")]
        if not fitting:
            break
        names.append(rest[: len(max(fitting, key=len))])
        rest = rest[len(names[-1]) :].strip()
    if len(names) == len(class_ids) and not rest:
        return tuple(names)
    if len(class_prompt.split()) == len(class_ids):
        return tuple(class_prompt.split())
    problem = Problem(
        Reason.BAD_PROMPT,
        f"the names of classes {list(class_ids)} of label space {space.name}, in this order",
        repr(class_prompt),
        "build prompts with generators.prompts, or use names and synonyms of the label space",
    )
    raise ContractError("class prompt", problem)


def request_from_row(row: Mapping[str, Any], space: LabelSpace, seed: int | None = None) -> Request:
    """A PROMPT row as a request; `seed` replaces the row's own."""
    ids = tuple(int(i) for i in row["class_ids"])
    absent = [label for label in space.classes if label.id not in (space.background_id, *ids)]
    absent.sort(key=lambda label: sample_seed(0, f"{row['sample_id']}|{label.id}", "lineup"))
    return Request(
        prompt=str(row["prompt"]),
        names=names_of(str(row["class_prompt"]), ids, space),
        class_ids=ids,
        seed=int(row["seed"]) if seed is None else seed,
        negative_prompt=row["negative_prompt"],
        prompt_id=str(row["sample_id"]),
        scene=row.get("scene") or None,
        others=tuple(spelled_out(label) for label in absent),
    )
