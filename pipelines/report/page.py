"""The page: what the template needs, pictures included, and the template filled in."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from maskmill.data_contracts import LabelSpace, Reason, decode_image, decode_mask
from maskmill.pipelines.core.ledger import KEPT, Ledger
from maskmill.pipelines.core.pages import page_template
from maskmill.pipelines.report.alarms import alarms_of
from maskmill.pipelines.report.data import (
    Change,
    ReportConfig,
    Tables,
    Timing,
    changes,
    class_balance,
    duplicate_groups,
    fault_rows,
    fetch_pixels,
    pick,
    score_figures,
    size_balance,
)
from maskmill.pipelines.report.thumbs import class_colour, css_colour, data_uri, overlay, thumbnail
from maskmill.pipelines.report.words import explain, label
from maskmill.pipelines.stages.downstream import SubsetResult, downstream_results

HUES = (12, 265, 38, 330, 205, 85, 300, 185, 55, 240, 0, 160)  # rejections, in the order of the reasons


@dataclass(frozen=True)
class Card:
    """One sample in a gallery."""

    sample_id: str
    reason: str
    kept: bool
    image: str
    overlay: str
    size: tuple[int, int]
    classes: list[tuple[str, str]]
    score: float | None
    threshold: float | None
    scores: list[tuple[str, float]]
    detail: str
    fault: str
    change: str = ""


@dataclass(frozen=True)
class SubsetRow:
    """A segmenter trained on a subset: metrics 0..1, and its overlays as a data URL."""

    words: str
    samples: int
    images: int
    miou: float
    dice: float
    pixel_accuracy: float
    overlays: str


def subset_rows(results: list[SubsetResult]) -> list[SubsetRow]:
    """What the page says of each subset."""
    rows = []
    for result in results:
        miou, dice, right = (float(result.metrics[name] or 0.0) for name in ("miou", "dice", "pixel_accuracy"))
        picture = "" if result.overlays is None else data_uri("image/png", result.overlays)
        images = int(result.metrics["images"])
        rows.append(SubsetRow(result.words, result.samples, images, miou, dice, right, picture))
    return rows


@dataclass(frozen=True)
class Group:
    """Near-duplicates side by side: the one that was kept, then those dropped for it, with their similarity."""

    cards: list[Card]
    more: int


def reason_colours(reasons: list[str]) -> dict[str, str]:
    """A colour for each reason that occurs; kept has its own."""
    order = [r.value for r in Reason]
    ordered = sorted(reasons, key=lambda r: (order.index(r) if r in order else len(order), r))
    hues = {reason: HUES[number % len(HUES)] for number, reason in enumerate(r for r in ordered if r != KEPT)}
    return {**{reason: f"hsl({hue} 62% 56%)" for reason, hue in hues.items()}, KEPT: "var(--kept)"}


class Page:
    """One report: chooses samples, loads their pixels once, renders."""

    def __init__(self, run_dir: str, tables: Tables, ledger: Ledger, space: LabelSpace, config: ReportConfig) -> None:
        self._run_dir = run_dir
        self._tables = tables
        self._ledger = ledger
        self._space = space
        self._config = config
        self._rows: dict[str, dict[str, Any]] = {}  # of the chosen samples, by id

    def render(self, *, per_reason: int, title: str, config: Any, about: dict[str, Any], timings: list[Timing]) -> str:
        """HTML with `per_reason` pictures for each reason."""
        chosen = self._choose(per_reason)
        groups = self._choose_groups(min(self._config.groups, 2 * per_reason))
        moved = self._moved(per_reason)
        pixels = self._pixels({i for ids in chosen.values() for i in ids} | {i for g in groups for i in g} | set(moved))
        faults, fault_reasons = fault_rows(self._tables.rows)
        reasons = [r.reason for r in self._ledger.rejections]
        colours = reason_colours([*reasons, KEPT])
        filters: dict[str, Callable[..., Any]] = {
            "label": label,
            "explain": explain,
            "percent": _percent,
            "number": _number,
        }
        return page_template("report.html.j2", filters, trim=True).render(
            title=title,
            ledger=self._ledger,
            alarms=alarms_of(self._run_dir, self._tables, self._ledger, self._space),
            colours=colours,
            segments=[*((r.stage, r.reason, r.rows) for r in self._ledger.rejections), ("", KEPT, self._ledger.kept)],
            figures=score_figures(self._tables.rows),
            classes=class_balance(self._tables, self._space, self._css),
            sizes=size_balance(self._tables),
            gallery={reason: [self._card(i, pixels) for i in ids] for reason, ids in chosen.items()},
            totals=self._ledger.counts,
            groups=[self._group(ids, pixels) for ids in groups],
            all_groups=len(self._groups),
            ingest_rejects=self._ingest_rejects(),
            faults=faults,
            fault_reasons=fault_reasons,
            subsets=subset_rows(downstream_results(self._run_dir)),
            changes=self._changes,
            moved=[self._card(i, pixels, change) for i, change in moved.items()],
            previous=self._config.previous,
            timings=timings,
            config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
            about=about,
        )

    @cached_property
    def _css(self) -> dict[int, str]:
        return {i: css_colour(class_colour(self._space, i)) for i in self._space.ids}

    @cached_property
    def _groups(self) -> dict[str, list[str]]:
        return duplicate_groups(self._tables.rows)

    @cached_property
    def _changes(self) -> list[Change]:
        return changes(self._tables.rows, self._config.previous) if self._config.previous else []

    def _choose(self, per_reason: int) -> dict[str, list[str]]:
        """Ids by reason: kept first, then in the order of the ledger."""
        reasons = [KEPT, *dict.fromkeys(r.reason for r in self._ledger.rejections if r.stage != "ingest")]
        rows = self._tables.rows
        found = {r: rows.filter(pl.col("reason") == r)["sample_id"].to_list() for r in reasons}
        counts = {r: per_reason * 2 if r == KEPT else per_reason for r in reasons}
        return {r: pick(ids, counts[r], self._config.seed) for r, ids in found.items() if ids}

    def _choose_groups(self, count: int) -> list[list[str]]:
        known = set(self._tables.rows["sample_id"].to_list())
        inside = [keeper for keeper in self._groups if keeper in known]
        return [[keeper, *self._groups[keeper]] for keeper in pick(inside, count, self._config.seed)]

    def _moved(self, per_reason: int) -> dict[str, str]:
        """Samples to show of those that were kept and are not any more, or the reverse, and in which way they moved."""
        chosen: dict[str, str] = {}
        for change in self._changes:
            if KEPT in (change.before, change.after) and change.after != "absent":
                way = f"{label(change.before)} → {label(change.after)}"
                chosen |= dict.fromkeys(pick(change.ids, max(1, per_reason // 2), self._config.seed), way)
        return chosen

    def _pixels(self, ids: set[str]) -> dict[str, dict[str, object]]:
        """Files of the chosen samples; also remembers their rows."""
        wanted: dict[str, set[str]] = {}
        for row in self._tables.rows.filter(pl.col("sample_id").is_in(sorted(ids))).iter_rows(named=True):
            self._rows[row["sample_id"]] = row
            wanted.setdefault(row["shard"], set()).add(row["sample_id"])
        return fetch_pixels(self._run_dir, wanted)

    def _group(self, ids: list[str], pixels: dict[str, dict[str, object]], shown: int = 4) -> Group:
        return Group([self._card(i, pixels) for i in ids[:shown]], max(0, len(ids) - shown))

    def _card(self, sample_id: str, pixels: dict[str, dict[str, object]], change: str = "") -> Card:
        row = self._rows[sample_id]
        image, mask = (_bytes(pixels[sample_id][name]) for name in ("image", "mask"))
        picture, size = thumbnail(decode_image(image or b"", sample_id), self._config.thumbnail)
        names = {"asf": "ASF", "image_score": "image score", "h_orig": "entropy"}
        return Card(
            sample_id=sample_id,
            reason=row["reason"],
            kept=row["kept"],
            image=picture,
            overlay=overlay(decode_mask(mask, sample_id), self._space, size) if mask else "",
            size=size,
            classes=[(self._space.by_id[i].name, self._css[i]) for i in row["class_ids"] if i in self._space.by_id],
            score=row["score"],
            threshold=row["threshold"],
            scores=[(words, row[name]) for name, words in names.items() if row[name] is not None],
            detail=row["detail"] or "",
            fault=row["fault"] or "",
            change=change,
        )

    def _ingest_rejects(self, shown: int = 60) -> list[dict[str, Any]]:
        ids = pick(self._tables.rejects["sample_id"].to_list(), shown, self._config.seed)
        rows = self._tables.rejects.filter(pl.col("sample_id").is_in(ids)).sort(["reason", "source_path", "sample_id"])
        return rows.select("reason", "source_path", "detail").to_dicts()


def _bytes(file: object) -> bytes | None:
    data = file.get("bytes") if isinstance(file, dict) else None
    return data if isinstance(data, bytes) else None


def _percent(value: float) -> str:
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


FILTERS: dict[str, Callable[..., Any]] = {
    "label": label,
    "explain": explain,
    "percent": _percent,
    "number": _number,
}
