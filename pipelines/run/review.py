"""The desk at which a person judges the samples of a run: the page, pictures on demand, verdicts as they come in."""

import os
import threading
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import LabelSpace, Relabel, decode_image, decode_mask, read_footer
from maskmill.data_contracts.relabel import remapped
from maskmill.data_contracts.secrets import published
from maskmill.pipelines.core.verdicts import Verdict, append_verdict, news, now, read_reviewed
from maskmill.pipelines.report.data import fetch_files, load_tables
from maskmill.pipelines.report.records import verdict_words
from maskmill.pipelines.report.thumbs import class_colour, css_colour, overlay, thumbnail
from maskmill.pipelines.report.write import render_report, report_fingerprint
from maskmill.pipelines.run.config import RunConfig

LARGE = 640  # longer side of a picture that is asked for, pixels


class ReviewError(ValueError):
    """A run that cannot be reviewed, or a verdict that cannot be given; says what to do."""


class Asked(BaseModel):
    """What the page sends: everything that is to be said of one sample from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_id: str = Field(max_length=200)
    verdict: Literal["keep", "reject", "relabel", "none"]
    from_class_id: int | None = None
    to_class_id: int | None = None
    why: str = Field(default="", max_length=2000)
    note: str = Field(default="", max_length=2000)

    @model_validator(mode="after")
    def _classes(self) -> "Asked":
        if self.verdict != "relabel" and (self.to_class_id is not None or self.from_class_id is not None):
            raise ValueError("only relabel names classes")
        if self.verdict == "relabel" and self.to_class_id is None:
            raise ValueError("relabel: say which class it is")
        return self


class Desk:
    """One run under review by one person. Safe to call from several threads."""

    def __init__(self, config: RunConfig, who: str) -> None:
        """
        Raises:
            ReviewError: the run lies in an object store, may not be written, or is not decided yet.
        """
        self.config = config
        self.who = who
        self._run_dir = config.run_dir.rstrip("/")
        check_place(self._run_dir)
        self._lock = threading.Lock()
        self._page: tuple[str, bytes] = ("", b"")
        self._rows: dict[str, dict[str, Any]] = {}
        self._load()

    @property
    def _space(self) -> LabelSpace:
        return self.config.space

    def page(self) -> bytes:
        """The page, made anew when the run was decided anew."""
        config = self.config
        settings = published(config)
        stamp = report_fingerprint(self._run_dir, config.report, config.space, settings, config.name)
        with self._lock:
            if self._page[0] != stamp:
                self._load()
                html = render_report(
                    self._run_dir,
                    config.report,
                    config.space,
                    run_config=settings,
                    title=config.name,
                    desk=self._about(),
                )
                self._page = (stamp, html)
            return self._page[1]

    def verdicts(self) -> dict[str, Any]:
        """What was said so far, and on how many samples selection does not know of it yet."""
        reviewed = read_reviewed(self._run_dir)
        return {"verdicts": verdict_words(reviewed.verdicts if reviewed else {}), "new": news(self._run_dir)}

    def judge(self, asked: Asked) -> dict[str, Any]:
        """Store a verdict; it is on the disk when this returns what `verdicts` then says of the sample.

        Raises:
            ReviewError: no such sample, or no such class in it.
            OSError: the disk is full, or the folder may not be written.
        """
        row = self._rows.get(asked.sample_id)
        if row is None:
            raise ReviewError(f"{asked.sample_id}: no sample of this run; reload the page")
        self._check_classes(asked, row)
        name = None if asked.to_class_id is None else self._space.by_id[asked.to_class_id].name
        verdict = Verdict(**asked.model_dump(), to_class=name, who=self.who, at=now(), decided=row["reason"])
        append_verdict(self._run_dir, verdict)
        told = verdict_words({asked.sample_id: verdict}) if verdict.says else {}
        return {"verdict": told.get(asked.sample_id), "new": news(self._run_dir)}

    def picture(self, sample_id: str) -> dict[str, Any] | None:
        """Image and mask of a sample as data URIs, and their size; None where there is no such sample."""
        row = self._rows.get(sample_id)
        if row is None:
            return None
        files = fetch_files(f"{self._run_dir}/samples", {row["shard"]: {sample_id}})[sample_id]
        image, mask = (_bytes(files[name]) for name in ("image", "mask"))
        picture, size = thumbnail(decode_image(image or b"", sample_id), LARGE)
        found = {"image": picture, "overlay": "", "width": size[0], "height": size[1]}
        if mask:
            relabel = Relabel.of(row)
            pairs = relabel.pairs(row["class_ids"]) if relabel else ()
            found["overlay"] = overlay(remapped(decode_mask(mask, sample_id), pairs), self._space, size)
        return found

    def _load(self) -> None:
        if read_footer(f"{self._run_dir}/decisions.parquet") is None:
            raise ReviewError(f"{self._run_dir}: nothing is decided there yet; run `maskmill run` first")
        rows = load_tables(self._run_dir).rows.unique("sample_id", keep="first", maintain_order=True)
        wanted = rows.select("sample_id", "reason", "shard", "class_ids", "relabel_from", "relabel_to")
        self._rows = {row["sample_id"]: row for row in wanted.iter_rows(named=True)}

    def _about(self) -> dict[str, Any]:
        """What the page must know beyond a report."""
        classes = [
            {"id": c.id, "name": c.name, "colour": css_colour(class_colour(self._space, c.id))}
            for c in self._space.classes
        ]
        return {"who": self.who, "run": self._run_dir, "classes": classes}

    def _check_classes(self, asked: Asked, row: dict[str, Any]) -> None:
        if asked.to_class_id is None:
            return
        if asked.to_class_id not in self._space.by_id:
            raise ReviewError(f"class {asked.to_class_id}: not in label space {self._space.name}; reload the page")
        if asked.from_class_id is not None and asked.from_class_id not in (row["class_ids"] or []):
            raise ReviewError(f"{asked.sample_id}: its mask shows no class {asked.from_class_id}; reload the page")


def check_place(run_dir: str) -> None:
    """Nothing, where verdicts can be written.

    Raises:
        ReviewError: an object store, no such folder, or one that may not be written; says what to do.
    """
    fs, target = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        raise ReviewError(
            f"{run_dir}: verdicts are appended to a file and forced to the disk one by one, which an object store "
            "cannot do. Copy the run folder to this machine, review the copy, and put its verdicts.jsonl back beside "
            "the run's decisions.parquet: the next run there honours it"
        )
    if not os.path.isdir(target):
        raise FileNotFoundError(f"{run_dir}: expected a run folder, found none")
    if not os.access(target, os.W_OK | os.X_OK):
        raise ReviewError(
            f"{run_dir}: this folder may not be written, so verdicts have no place to stay. Look at the run with "
            "`maskmill serve`, or copy the folder to where you may write and review the copy"
        )


def _bytes(file: object) -> bytes | None:
    data = file.get("bytes") if isinstance(file, dict) else None
    return data if isinstance(data, bytes) else None
