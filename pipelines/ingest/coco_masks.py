"""COCO segmentations to run lengths, in every form that tools write and that can mean one thing only."""

import ast
from collections.abc import Iterator
from typing import Any

from maskmill.data_contracts.rle import Runs
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.coco_values import length

POLYGON = "polygons of three or more x, y pairs near the image"
LONGEST = 2_000_000  # pixels along an outline: it is walked in fifths of a pixel, whatever the photo's size


def is_empty(segmentation: Any) -> bool:
    """Whether a segmentation says nothing: null, "", [], [[]], {}; the object may have a box."""
    if isinstance(segmentation, list):
        return all(isinstance(part, list | dict) and not part for part in segmentation)
    return segmentation is None or segmentation in ("", {})


def is_runs(segmentation: Any) -> bool:
    """Whether a segmentation is (or holds) run lengths, and no polygon."""
    return isinstance(segmentation, dict) or (
        isinstance(segmentation, list)
        and bool(segmentation)
        and isinstance(segmentation[0], dict)
        and "counts" in segmentation[0]
    )


def draw_segmentation(segmentation: Any, height: int, width: int, where: str) -> Runs:
    """The pixels of polygons (their union) or of run lengths {size, counts}, compressed or not.

    Polygons are lists [x, y, x, y, …] or lists of points [[x, y], …] or [{"x", "y"}, …]; one alone may stand without
    the list around it. Lists may hold run lengths. A text is read as the JSON that it is.

    Raises:
        ContractError: `bad_annotation` for anything that does not describe a mask of this size.
    """
    if isinstance(segmentation, str):
        segmentation = _from_text(segmentation, where)
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width, where)
    if not isinstance(segmentation, list):
        raise _bad(where, "polygons or run lengths", repr(segmentation)[:60])
    parts = [segmentation] if _is_ring(segmentation) else segmentation
    rings: list[list[float]] = []
    areas: list[Runs] = []
    for number, part in enumerate(parts):
        place = where if len(parts) == 1 else f"{where}, part {number}"
        if isinstance(part, dict):
            areas.append(_from_runs(part, height, width, place))
        elif part != []:
            rings.append(_ring(part, height, width, place))
    return _united(rings, areas, height, width)


def _from_text(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except TextError as error:
        raise _bad(where, "polygons or run lengths", f"the text {text!r:.60}") from error


def _is_ring(values: list[Any]) -> bool:
    """Whether a list is one polygon itself: numbers, or points."""
    return bool(values) and (all(map(_is_number, values)) or all(map(_is_point, values)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_point(value: object) -> bool:
    if isinstance(value, dict):
        return set(value) == {"x", "y"} and all(map(_is_number, value.values()))
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _ring(part: Any, height: int, width: int, where: str) -> list[float]:
    """One polygon as [x, y, x, y, …]."""
    flat = part
    if isinstance(part, list) and part and all(map(_is_point, part)):
        flat = [v for p in part for v in ((p["x"], p["y"]) if isinstance(p, dict) else p)]
    # Far outside means another image's annotation; pycocotools would walk all the way.
    limit = 2.0 * max(height, width)
    if not isinstance(flat, list) or not all(_is_number(v) and abs(v) <= limit for v in flat):
        raise _bad(where, POLYGON, repr(part)[:60])
    if len(flat) == 4:
        fix = "draw the object, or move the numbers to `bbox`, leave `segmentation` empty and choose with source.boxes"
        raise bad_annotation(where, POLYGON, f"four numbers {flat!r:.60}, a box perhaps", fix)
    if len(flat) < 6 or len(flat) % 2:
        raise _bad(where, POLYGON, f"{len(flat)} numbers {flat!r:.60}")
    if len(flat) * limit > LONGEST and (around := _outline(flat)) > LONGEST:
        fix = "draw the object with fewer corners, or store run lengths"
        raise bad_annotation(where, f"an outline of at most {LONGEST:,} pixels", f"one of {around:,.0f}", fix)
    return flat


def _outline(flat: list[float]) -> float:
    """Pixels along a polygon."""
    points = list(zip(flat[::2], flat[1::2], strict=True))
    return sum(max(abs(x - u), abs(y - v)) for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True))


def are_shares(segmentation: Any) -> bool:
    """Whether all coordinates of polygons or a box lie within 0..1, fractions among them: as tools write shares of a
    photo's sides.
    """
    numbers = list(_numbers(segmentation))
    return bool(numbers) and all(0 <= v <= 1 for v in numbers) and any(v not in (0, 1) for v in numbers)


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in nested lists and points."""
    if _is_number(value):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif _is_point(value):
        yield from value.values()


def _united(rings: list[list[float]], areas: list[Runs], height: int, width: int) -> Runs:
    """Polygons and run lengths as one; nothing is drawn."""
    from pycocotools import mask as coco_mask

    polygons: Any = rings  # its stubs know whole numbers only
    codes: list[Any] = [area.code for area in areas]
    codes += coco_mask.frPyObjects(polygons, height, width) if rings else []
    return Runs.of_code(coco_mask.merge(codes)) if codes else Runs.of_counts([height * width], height, width)


def _from_runs(code: dict[str, Any], height: int, width: int, where: str) -> Runs:
    counts, size = code.get("counts"), code.get("size")
    lengths = [length(n) for n in size] if isinstance(size, list) else None
    if lengths != [height, width]:
        hint = " (width before height)" if lengths == [width, height] else ""
        raise _bad(where, f"run lengths of size [{height}, {width}]", f"{size!r}{hint}")
    try:
        if isinstance(counts, str):
            return Runs.read(_from_bytes(counts), height, width)
        return Runs.of_counts([_whole(n) for n in counts] if isinstance(counts, list) else counts, height, width)
    except ValueError as error:
        raise _bad(where, f"run lengths that sum to {height * width} pixels", str(error)) from error


def _from_bytes(text: str) -> str:
    """The string in "b'…'", which Python's str() makes of the bytes that pycocotools gives."""
    if not (text.startswith(("b'", 'b"')) and text.endswith(text[1])):
        return text
    try:
        return str(ast.literal_eval(text), "ascii")
    except (SyntaxError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{text!r:.60}, no compressed run lengths") from error


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bad(where: str, expected: str, found: str) -> Exception:
    return bad_annotation(where, expected, found, "mend the segmentation, or remove the annotation")
