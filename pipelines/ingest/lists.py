"""Lists of what to take, one photo a line: stems, names with blanks, paths, and DeepLab's pairs of paths."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from maskmill.data_contracts import Problem, Reason
from maskmill.data_contracts.image_files import IMAGE_SUFFIXES
from maskmill.pipelines.ingest.files import File, FileIndex, Root, path_problem

LONGEST = 10_000  # characters of a line: two paths as long as a system takes them
MOST_WORDS = 64  # of a name with blanks


@dataclass(frozen=True)
class Listed:
    """One line: the photos that it names (one, but for twins of one stem), and the mask where it names one as well."""

    photos: list[File]
    mask: File | None = None


def read_list(root: Root, path: str, images: FileIndex, masks: FileIndex | None = None) -> Iterator[Listed]:
    """Lines of a list that are not blank. A line is the longest beginning of it that is a stem or a path; behind it,
    after blanks, a comma or a semicolon, may stand the path of the mask; other words are left out.
    """
    with root.text(path) as lines:
        for number, line in enumerate(lines, 1):
            if text := line.strip():
                yield _read(text, f"{path}, line {number}", root, images, masks)


def _read(text: str, where: str, root: Root, images: FileIndex, masks: FileIndex | None) -> Listed:
    if len(text) > LONGEST:
        found = f"{len(text):,} characters: {text[:40]}…"
        fix = "write one photo a line"
        problem = Problem(Reason.BAD_ANNOTATION, f"a line of at most {LONGEST:,} characters", found, fix, where)
        return Listed([File(where, "", problem)])
    words = re.split(r"(\s*[,;]\s*|\s+)", text)
    for count in range(min(len(words), 2 * MOST_WORDS - 1), 0, -2):
        name, rest = "".join(words[:count]), "".join(words[count:]).strip(" \t,;")
        if photos := images.find_any(name):
            return Listed(photos, None if masks is None else _mask(rest, where, root, masks))
    name = re.sub(r"\s+-?[01]$", "", text)  # VOC's lists of one class have a flag behind each name
    return Listed([missing_image(f"{images.folder}/{name}".lstrip("/"), name, images.instead(name), where)])


def _mask(rest: str, where: str, root: Root, masks: FileIndex) -> File | None:
    """The mask that stands behind a photo."""
    if PurePosixPath(rest).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    inside = rest.lstrip("/")
    if (found := masks.find_path(rest)) is not None:
        return found
    if path_problem(inside) is None and root.has_file(inside):
        return File(inside, root.stamp(inside))
    fix = "add the mask, or mend the list"
    return File(inside, "", Problem(Reason.MISSING_MASK, f"a mask {rest}", masks.instead(rest), fix, where))


def missing_image(path: str, stem: str, instead: str = "none", where: str = "", advice: str = "") -> File:
    """Stands for an image that a list or a mask speaks of and that is not there."""
    unsafe = path_problem(stem)
    fix = f"add the image, or take it out of the list (or its mask out of the folder){advice}"
    return File(path, "", unsafe or Problem(Reason.MISSING_IMAGE, f"an image {stem}.*", instead, fix, where))
