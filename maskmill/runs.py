"""What a run left, opened for looking: tables as polars frames, samples as pixels and pictures, decisions as words."""

import html
from collections.abc import Sequence
from functools import cached_property
from os import PathLike

import fsspec
import polars as pl

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    Uint8Array,
    decode_image,
    decode_mask,
    list_shards,
)
from maskmill.figures import Sheet, Shown, contact_sheet
from maskmill.pipelines.core.ledger import Ledger, build_ledger
from maskmill.pipelines.report import report_path
from maskmill.pipelines.report.data import Pick, fetch_files
from maskmill.pipelines.report.words import label
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.explain import explain_sample, find_sample, read_table

PIXELS = ("image", "mask")


class Run:
    """A run folder. Tables are read when they are first asked for and kept; open the run anew after it went on."""

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def config(self) -> RunConfig:
        """The config that the folder was made with; `run_dir` is where the folder lies now.

        Raises:
            FileNotFoundError: no config.json in the folder.
        """
        if not _is_there(f"{self.path}/config.json"):
            raise FileNotFoundError(f"{self.path}/config.json: expected the run's config, found none; run it again")
        return load_run_config(f"{self.path}/config.json", {"run_dir": self.path})

    @cached_property
    def samples(self) -> pl.DataFrame:
        """One row a sample that was ingested or made: the SAMPLE contract without pixels, and `shard`."""
        return self.read_samples()

    def read_samples(self, *, pixels: bool = False) -> pl.DataFrame:
        """As `samples`; with `pixels` also `image` and `mask`, structs of the encoded files' `bytes` and `path`."""
        columns = [name for name in SAMPLE.schema.names if pixels or name not in PIXELS]
        return read_table(list_shards(f"{self.path}/samples"), SAMPLE, columns)

    @cached_property
    def scores(self) -> pl.DataFrame:
        """One row a scored sample: the SCORE contract, and `shard`. Higher `image_score` and `asf` are better; `pcs`
        and the entropies are in nats; `embedding` is a unit vector; `reason` and `detail` say why a score is missing.
        """
        return read_table(list_shards(f"{self.path}/scores"), SCORE)

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """One row a sample, sorted by id: `kept`, `reason`, the `score` that decided and its `threshold`,
        `duplicate_of`, `shard`. Empty before selection.
        """
        return read_table([f"{self.path}/decisions.parquet"], DECISION)

    @cached_property
    def rejects(self) -> pl.DataFrame:
        """What ingest (or the generator) turned away, laid out as `decisions`: `source_path`, `reason`, and in `detail`
        what was expected, what was found and how to mend it.
        """
        return read_table(list_shards(f"{self.path}/rejects"), DECISION)

    @cached_property
    def ledger(self) -> Ledger:
        """In = kept + rejected by reason (`.counts`, `.markdown()`), per shard (`.shards`) and by class.

        Raises:
            LedgerError: a sample went missing; names the shard.
        """
        path = f"{self.path}/ledger.json"
        return Ledger.read(path) if _is_there(path) else build_ledger(self.path)

    @property
    def report(self) -> str:
        """Path of the HTML report."""
        return report_path(self.path)

    def why(self, sample: str) -> str:
        """What became of one sample, and why, in words: decision, scores beside their thresholds, classes, duplicates,
        source. `sample` is its id, the first digits of the id, or its file: path or name in the source, with or
        without suffix.

        Raises:
            KeyError: no such sample, or several; lists them.
        """
        config = self.config if _is_there(f"{self.path}/config.json") else None
        return str(explain_sample(self.path, sample, config))

    def pixels(self, sample: str) -> tuple[Uint8Array, Uint8Array | None]:
        """Image uint8 (H, W, 3) RGB and mask uint8 (H, W) of class ids, 255 = ignore; None without a mask. `sample` as
        in `why`.

        Raises:
            KeyError: no such sample, or several; or ingest turned it away, so that no pixels are stored.
        """
        sample_id = find_sample(self.path, sample)
        if (found := self._decoded([sample_id]).get(sample_id)) is None:
            raise KeyError(f"{sample_id}: ingest turned it away, so no pixels are stored; `why` says what was wrong")
        return found

    def show(self, n: int = 6, reason: str | None = None, *, seed: int = 0) -> Sheet:
        """A matplotlib figure of up to `n` samples: image, mask laid over it, decision and scores. No window opens;
        a notebook shows it, `figure.savefig("sheet.png")` keeps it.

        Args:
            n: samples, chosen by hash: the same ones each time.
            reason: only those with this reason ("kept", "low_asf", …); None = kept and rejected ones.
            seed: another seed shows others.

        Raises:
            ValueError: nothing is decided yet, `n` below 1, or nobody has that reason; lists the reasons there are.
        """
        if n < 1:
            raise ValueError(f"n: expected 1 or more samples, found {n}")
        chosen = self._choose(n, reason, seed)
        pixels = self._decoded(chosen["sample_id"].to_list())
        scores = self.scores.select("sample_id", "image_score", "asf").unique("sample_id", keep="first")
        rows = chosen.join(scores, on="sample_id", how="left", maintain_order="left")
        shown = [
            Shown(*pixels[name], f"{label(why)}\n{name[:12]}", f"image score {_number(image)}\nASF {_number(asf)}")
            for name, why, image, asf in rows.select("sample_id", "reason", "image_score", "asf").iter_rows()
        ]
        return contact_sheet(shown, self.config.space)

    def _choose(self, n: int, reason: str | None, seed: int) -> pl.DataFrame:
        """Decisions to show, one a sample: kept first, then by reason and id."""
        rows = self.decisions.unique("sample_id", keep="first")
        if rows.is_empty():
            raise ValueError(f"{self.path}: nothing is decided yet; run select")
        pick = Pick(seed)
        if reason is not None:
            found = rows.filter(pl.col("reason") == reason)
            if found.is_empty():
                there = ", ".join(f"{name} ({number})" for name, number in self.ledger.counts.items())
                raise ValueError(f"reason {reason!r}: no decision has it; there is: {there}")
            ids = pick(found["sample_id"].to_list(), n)
        else:
            kept, dropped = (pick(rows.filter(kept=way)["sample_id"].to_list(), n) for way in (True, False))
            half = min(len(kept), max((n + 1) // 2, n - len(dropped)))
            ids = [*kept[:half], *dropped[: n - half]]
        shown = rows.filter(pl.col("sample_id").is_in(ids))
        return shown.sort(["kept", "reason", "sample_id"], descending=[True, False, False])

    def _decoded(self, ids: Sequence[str]) -> dict[str, tuple[Uint8Array, Uint8Array | None]]:
        """Image and mask of the samples that have pixels, by id."""
        wanted: dict[str, set[str]] = {}
        places = self.samples.filter(pl.col("sample_id").is_in(list(ids))).select("sample_id", "shard")
        for sample_id, shard in places.iter_rows():
            wanted.setdefault(shard, set()).add(sample_id)
        found: dict[str, tuple[Uint8Array, Uint8Array | None]] = {}
        for sample_id, row in fetch_files(f"{self.path}/samples", wanted).items():
            image, mask = (_bytes(row[name]) for name in PIXELS)
            found[sample_id] = (
                decode_image(image or b"", sample_id),
                None if mask is None else decode_mask(mask, sample_id),
            )
        return found

    def __repr__(self) -> str:
        counts = ", ".join(f"{number:,} {label(reason)}" for reason, number in self.ledger.counts.items())
        return f"<maskmill run {self.path}: {self.ledger.rows_in:,} samples in: {counts}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(stage)}</td><td>{html.escape(label(what))}</td>"
            f"<td style='text-align:right'>{number:,}</td><td style='text-align:right'>{share:.1%}</td></tr>"
            for stage, what, number, share in self.ledger.lines()
        )
        hint = ".show(n, reason=…), .why(id or file), .samples, .scores, .decisions, .rejects, .ledger, .report"
        head = "<tr><th>stage</th><th></th><th>samples</th><th>share</th></tr>"
        return f"<b>maskmill run {html.escape(self.path)}</b><table>{head}{rows}</table><small>{hint}</small>"


def load_run(run_dir: str | PathLike[str]) -> Run:
    """Open a run folder (or fsspec URL), also one that is not finished. Reads nothing yet.

    Raises:
        FileNotFoundError: no run there.
    """
    path = str(run_dir).rstrip("/") or "/"
    if not _is_there(f"{path}/config.json") and not list_shards(f"{path}/samples"):
        raise FileNotFoundError(f"{path}: expected a run folder (config.json, samples/), found none; mm.run makes one")
    return Run(path)


def _is_there(path: str) -> bool:
    fs, target = fsspec.core.url_to_fs(path)
    return bool(fs.exists(target))


def _bytes(file: object) -> bytes | None:
    data = file.get("bytes") if isinstance(file, dict) else None
    return data if isinstance(data, bytes) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
