"""Names of classes that lie beside the data: the label files that annotation tools and frameworks write."""

import csv
from collections.abc import Callable, Iterable
from typing import IO, Any

from pydantic import ValidationError

from maskmill.data_contracts import LabelClass, LabelSpace
from maskmill.data_contracts.texts import MOST_BYTES, MOST_YAML, parse_json, parse_yaml
from maskmill.pipelines.ingest.files import Root

Named = tuple[int, str, tuple[int, int, int] | None]  # the id in the data, its name, its colour
BACKGROUND = frozenset(("background", "bg", "unlabeled", "unlabelled"))
VALUES = "# mask values: "  # comment of a labelmap.txt whose masks do not count its lines
IGNORED = frozenset(("ignore", "ignored", "void", "dontcare"))
MOST = 254


def find_class_names(root: Root, folders: Iterable[str]) -> tuple[str, list[Named]] | None:
    """The first label file in the root or one of the folders: its path, and what it names; None where there is none.

    Raises:
        ValueError: a file that is not laid out as such files are; names it.
    """
    for folder in dict.fromkeys(("", *(folder.strip("/") for folder in folders))):
        for name, read in READERS.items():
            path = f"{folder}/{name}".lstrip("/")
            if root.has_file(path):
                with root.text(path) as handle:
                    try:
                        return path, read(handle)
                    except UnicodeDecodeError:
                        raise
                    except (ValueError, TypeError, KeyError, AttributeError, LookupError, csv.Error) as error:
                        found = f"{type(error).__name__}: {error}"[:200]
                        raise ValueError(f"{root.url}/{path}: expected names of classes, found {found}") from error
    return None


def space_of(name: str, named: Iterable[Named], where: str, keep_ids: bool) -> LabelSpace:
    """A label space of names that come with the data.

    With `keep_ids` the masks hold these ids; else the classes are numbered 1, 2, … in their order, and the data's ids
    become `source_id`. Background is no class; what is called ignore or void becomes 255.

    Raises:
        ValueError: no class, more than 254, or two of one name.
    """
    pairs = sorted(set(named))
    ground = {number for number, word, _ in pairs if _plain(word) in BACKGROUND}
    ignored = tuple(number for number, word, _ in pairs if _plain(word) in IGNORED)
    classes = [one for one in pairs if one[0] not in ground and one[0] not in ignored]
    if not classes or len(classes) > MOST:
        fix = "" if not classes else "; group them first, e.g. with coarser names"
        raise ValueError(f"{where}: expected 1 to {MOST} classes, found {len(classes)}{fix}")
    made = []
    for count, (number, word, colour) in enumerate(classes, 1):
        rest = {} if keep_ids else {"source_id": number}
        made.append({"id": number if keep_ids else count, "name": word, "colour": colour, **rest})
    zero = min(ground, default=None if keep_ids and any(one["id"] == 0 for one in made) else 0)
    try:
        return LabelSpace(
            name=name,
            classes=tuple(LabelClass.model_validate(one) for one in made),
            background_id=zero if keep_ids else 0,
            ignore_ids=tuple(i for i in ignored if i != 255) if keep_ids else (),
        )
    except ValidationError as error:
        found = "; ".join(str(one["msg"]) for one in error.errors())
        raise ValueError(f"{where}: expected classes with names and ids of their own, found: {found}") from error


def _plain(word: str) -> str:
    return word.strip("_ ").lower()


def _labelmap(handle: IO[str]) -> list[Named]:
    """CVAT and datumaro: `name:r,g,b:parts:actions` a line; the ids are the lines' numbers, or those that our export
    notes in a comment.
    """
    text = [line.strip() for line in handle if line.strip()]
    lines = [line for line in text if not line.startswith("#")]
    noted = next((line.removeprefix(VALUES) for line in text if line.startswith(VALUES)), None)
    numbers = range(len(lines)) if noted is None else [int(value) for value in noted.split(",")]
    found: list[Named] = []
    for number, line in zip(numbers, lines, strict=True):
        word, _, rest = line.partition(":")
        found.append((number, word.strip(), _colour(rest.partition(":")[0])))
    return found


def _colour(text: str) -> tuple[int, int, int] | None:
    parts = [int(part) for part in text.split(",") if part.strip()]
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def _csv(handle: IO[str]) -> list[Named]:
    """Roboflow: a header, then `pixel value, class` a line."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    return [(int(row[0]), row[1], None) for row in rows if row[0].isdigit()]


def _nnunet(handle: IO[str]) -> list[Named]:
    """nnU-Net: `labels` as {name: id}, or as {id: name} in its first version."""
    labels: dict[str, Any] = parse_json(handle.read(MOST_BYTES + 1))["labels"]
    found: list[Named] = []
    for key, value in labels.items():
        if isinstance(value, list):
            raise ValueError(f"a region of several ids ({key}: {value}); name each id by itself")
        found.append((int(key), str(value), None) if str(key).isdigit() else (int(value), key, None))
    return found


def _yaml(handle: IO[str]) -> list[Named]:
    """YOLO: `names` as a list, or as {id: name}."""
    names = parse_yaml(handle.read(MOST_YAML + 1))["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return [(int(number), str(word), None) for number, word in pairs]


def _id2label(handle: IO[str]) -> list[Named]:
    """transformers: {id: name}."""
    return [(int(number), str(word), None) for number, word in parse_json(handle.read(MOST_BYTES + 1)).items()]


READERS: dict[str, Callable[[IO[str]], list[Named]]] = {
    "labelmap.txt": _labelmap,
    "_classes.csv": _csv,
    "dataset.json": _nnunet,
    "id2label.json": _id2label,
    "data.yaml": _yaml,
    "data.yml": _yaml,
}
