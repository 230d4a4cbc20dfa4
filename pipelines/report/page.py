"""The page: what the template needs, pictures included, and the template filled in."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import polars as pl

from maskmill.data_contracts import LabelSpace, Relabel, decode_image, decode_mask
from maskmill.data_contracts.relabel import remapped
from maskmill.pipelines.core.ledger import KEPT, Ledger
from maskmill.pipelines.core.pages import TEMPLATES, page_template
from maskmill.pipelines.core.verdicts import honoured
from maskmill.pipelines.report.alarms import alarms_of
from maskmill.pipelines.report.colours import reason_colour, reason_pattern
from maskmill.pipelines.report.data import (
    Change,
    Pick,
    ReportConfig,
    Tables,
    Timing,
    changes,
    class_balance,
    duplicate_groups,
    fault_rows,
    fetch_files,
    size_balance,
)
from maskmill.pipelines.report.pays import subset_rows, verdict
from maskmill.pipelines.report.records import (
    MOST_ROWS,
    as_json,
    neighbours,
    records,
    verdict_words,
    worst_first,
)
from maskmill.pipelines.report.scores import ScoreFigure, score_figures
from maskmill.pipelines.report.thumbs import class_colour, css_colour, overlay, thumbnail
from maskmill.pipelines.report.words import TERMS, explain, label
from maskmill.pipelines.stages.downstream import downstream_results

ALL = 20  # a run with at most as many samples for each picture of a reason shows them all
OF_GROUP = 4  # near-duplicates shown side by side
SCRIPTS = ("data", "list", "view", "sliders", "main")  # in pipelines/templates/report/, in the order they are run
DESK = ("data", "list", "view", "sliders", "judge", "main")  # of the page that takes verdicts


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
    file: str = ""
    change: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Group:
    """Near-duplicates side by side: the one that was kept, then those dropped for it, with their similarity."""

    cards: list[Card]
    more: int


class Page:
    """One report: chooses samples, loads their pixels once, renders."""

    def __init__(
        self,
        run_dir: str,
        tables: Tables,
        ledger: Ledger,
        space: LabelSpace,
        config: ReportConfig,
        desk: dict[str, Any] | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._tables = tables
        self._ledger = ledger
        self._space = space
        self._config = config
        self._pick = Pick(config.seed)
        self._desk = desk
        self._verdicts = verdict_words(honoured(run_dir))
        self._rows: dict[str, dict[str, Any]] = {}  # of the chosen samples, by id
        self._thumbnails: dict[
            str, tuple[str, tuple[int, int]]
        ] = {}  # made once, though pages are tried until one fits

    def render(self, *, per_reason: int, title: str, config: Any, about: dict[str, Any], timings: list[Timing]) -> str:
        """HTML with `per_reason` pictures for each reason."""
        chosen = self._choose(per_reason)
        groups = self._choose_groups(min(self._config.groups, 2 * per_reason))
        moved = self._moved(per_reason)
        shown = {i for ids in (*chosen.values(), *(g[:OF_GROUP] for g in groups), moved) for i in ids}
        pixels = self._pixels(shown)
        faults, fault_reasons = fault_rows(self._tables.rows)
        script, script_hash = page_script(DESK if self._desk else SCRIPTS)
        results, figures = downstream_results(self._run_dir), score_figures(self._tables.rows)
        filters: dict[str, Callable[..., Any]] = {
            "label": label,
            "explain": explain,
            "percent": _percent,
            "number": _number,
            "colour": reason_colour,
            "pattern": reason_pattern,
        }
        return page_template("report.html.j2", filters, trim=True).render(
            title=title,
            ledger=self._ledger,
            alarms=alarms_of(self._run_dir, self._tables, self._ledger, self._space),
            segments=[*((r.stage, r.reason, r.rows) for r in self._ledger.rejections), ("", KEPT, self._ledger.kept)],
            figures=figures,
            classes=class_balance(self._tables, self._space, self._css),
            sizes=size_balance(self._tables),
            gallery={reason: [self._card(i, pixels) for i in ids] for reason, ids in chosen.items()},
            totals=self._ledger.counts,
            groups=[self._group(ids, pixels) for ids in groups],
            all_groups=len(self._groups),
            ingest_rejects=self._ingest_rejects(),
            faults=faults,
            fault_reasons=fault_reasons,
            subsets=subset_rows(results),
            verdict=verdict(results),
            changes=self._changes,
            moved=[self._card(i, pixels, change) for i, change in moved.items()],
            previous=self._config.previous,
            timings=timings,
            config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
            about=about,
            terms=TERMS,
            data=self._data(shown, figures),
            desk=self._desk,
            script=script,
            script_hash=script_hash,
        )

    def _data(self, pictured: set[str], figures: list[ScoreFigure]) -> str:
        """The samples for the page's script, as JSON: all, or as many as leave half of the page for pictures."""
        rows, number = self._tables.rows.unique("sample_id", keep="first", maintain_order=True), MOST_ROWS
        more = {
            "total": rows.height,
            "labels": self._labels(pictured),
            "sliders": {figure.column: figure.slider for figure in figures if figure.slider},
            "verdicts": self._verdicts,
            "desk": self._desk,
        }
        while True:
            listed = {*self._pick(rows["sample_id"].to_list(), number), *pictured}
            shown = rows.filter(pl.col("sample_id").is_in(sorted(listed)))
            data = records(shown, self._space, self._css, neighbours(self._run_dir, listed))
            text = as_json({**data, **more})
            if len(text) <= self._config.max_bytes // 2 or number <= len(pictured):
                return text
            number //= 2

    def _labels(self, ids: set[str]) -> dict[str, str]:
        """Masks that a labeler (CLIP, or a trained one) gave the samples, where the run holds any."""
        wanted: dict[str, set[str]] = {}
        for sample_id in sorted(ids):
            wanted.setdefault(self._rows[sample_id]["shard"], set()).add(sample_id)
        found = fetch_files(f"{self._run_dir}/labels", wanted, ("mask",))
        masks = {sample_id: _bytes(row["mask"]) for sample_id, row in sorted(found.items())}
        return {i: self._overlay(mask, i, self._thumbnails[i][1]) for i, mask in masks.items() if mask}

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
        if rows.height <= ALL * per_reason:
            return {r: self._pick(ids, len(ids)) for r, ids in found.items() if ids}
        worst = {r: worst_first(rows.filter(pl.col("reason") == r))[: counts[r]] for r in reasons}
        by_hash = {r: self._pick(ids, counts[r]) for r, ids in found.items()}
        return {r: list(dict.fromkeys([*by_hash[r], *worst[r]])) for r in reasons if found[r]}

    def _choose_groups(self, count: int) -> list[list[str]]:
        known = set(self._tables.rows["sample_id"].to_list())
        inside = [keeper for keeper in self._groups if keeper in known]
        return [[keeper, *self._groups[keeper]] for keeper in self._pick(inside, count)]

    def _moved(self, per_reason: int) -> dict[str, str]:
        """Samples to show of those that were kept and are not any more, or the reverse, and in which way they moved."""
        chosen: dict[str, str] = {}
        for change in self._changes:
            if KEPT in (change.before, change.after) and change.after != "absent":
                way = f"{label(change.before)} → {label(change.after)}"
                chosen |= dict.fromkeys(self._pick(change.ids, max(1, per_reason // 2)), way)
        return chosen

    def _pixels(self, ids: set[str]) -> dict[str, dict[str, object]]:
        """Files of the chosen samples; also remembers their rows."""
        wanted: dict[str, set[str]] = {}
        for row in self._tables.rows.filter(pl.col("sample_id").is_in(sorted(ids))).iter_rows(named=True):
            self._rows[row["sample_id"]] = row
            wanted.setdefault(row["shard"], set()).add(row["sample_id"])
        return fetch_files(f"{self._run_dir}/samples", wanted)

    def _group(self, ids: list[str], pixels: dict[str, dict[str, object]]) -> Group:
        return Group([self._card(i, pixels) for i in ids[:OF_GROUP]], max(0, len(ids) - OF_GROUP))

    def _card(self, sample_id: str, pixels: dict[str, dict[str, object]], change: str = "") -> Card:
        row = self._rows[sample_id]
        image, mask = (_bytes(pixels[sample_id][name]) for name in ("image", "mask"))
        picture, size = self._thumbnail(sample_id, image or b"")
        names = {"asf": "ASF", "image_score": "image score", "h_orig": "entropy"}
        return Card(
            sample_id=sample_id,
            reason=row["reason"],
            kept=row["kept"],
            image=picture,
            overlay=self._overlay(mask, sample_id, size, Relabel.of(row)) if mask else "",
            size=size,
            classes=[(self._space.by_id[i].name, self._css[i]) for i in row["leaves_as"] if i in self._space.by_id],
            score=row["score"],
            threshold=row["threshold"],
            scores=[(words, row[name]) for name, words in names.items() if row[name] is not None],
            detail=row["detail"] or "",
            fault=row["fault"] or "",
            file=row["file"] or "",
            change=change,
            verdict=self._verdicts.get(sample_id, {}).get("words", ""),
        )

    def _thumbnail(self, sample_id: str, image: bytes) -> tuple[str, tuple[int, int]]:
        if sample_id not in self._thumbnails:
            self._thumbnails[sample_id] = thumbnail(decode_image(image, sample_id), self._config.thumbnail)
        return self._thumbnails[sample_id]

    def _overlay(self, mask: bytes, sample_id: str, size: tuple[int, int], relabel: Relabel | None = None) -> str:
        decoded = decode_mask(mask, sample_id)
        if relabel is not None:
            decoded = remapped(decoded, relabel.pairs(self._rows[sample_id]["class_ids"]))
        return overlay(decoded, self._space, size)

    def _ingest_rejects(self, shown: int = 60) -> list[dict[str, Any]]:
        ids = self._pick(self._tables.rejects["sample_id"].to_list(), shown)
        rows = self._tables.rejects.filter(pl.col("sample_id").is_in(ids)).sort(["reason", "source_path", "sample_id"])
        return rows.select("reason", "source_path", "detail").to_dicts()


@cache
def page_script(names: tuple[str, ...] = SCRIPTS) -> tuple[str, str]:
    """The page's script, and its SHA-256 in base64: the one script that its content policy lets run."""
    parts = [(TEMPLATES / "report" / f"{name}.js").read_text(encoding="utf-8") for name in names]
    script = '\n"use strict";\n' + "\n".join(parts)
    return script, base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _bytes(file: object) -> bytes | None:
    data = file.get("bytes") if isinstance(file, dict) else None
    return data if isinstance(data, bytes) else None


def _percent(value: float) -> str:
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
