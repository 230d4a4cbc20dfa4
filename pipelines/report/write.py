"""Writes the report of a run: one HTML file that needs nothing else, and a short Markdown summary."""

import re
from typing import Any

from maskmill.data_contracts import (
    LabelSpace,
    bytes_hash,
    config_hash,
    content_id,
    list_shards,
    package_versions,
    read_bytes,
    read_footer,
)
from maskmill.data_contracts import write_bytes as write_file
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.core.verdicts import SHARD
from maskmill.pipelines.report.alarms import alarms_of
from maskmill.pipelines.report.alarms import markdown as alarm_list
from maskmill.pipelines.report.data import ReportConfig, Timing, fault_rows, load_tables
from maskmill.pipelines.report.page import Page
from maskmill.pipelines.report.words import label
from maskmill.pipelines.stages.downstream import downstream_results

VERSION = 5
NO_RESULT = frozenset(
    {"run_dir", "workers", "crf_workers", "ray", "limits"}
)  # keys of a run config that change nothing that the report shows
STAMP = re.compile(rb'<meta name="maskmill-fingerprint" content="([0-9a-f]+)">')

CHECK = "<!-- maskmill-check {} -->\n"  # hash of all bytes before

RunJson = dict[str, Any] | None


def report_path(run_dir: str) -> str:
    """Where a run's report lies."""
    return f"{run_dir}/report/index.html"


def write_report(
    run_dir: str,
    config: ReportConfig,
    space: LabelSpace,
    *,
    run_config: RunJson = None,
    title: str = "maskmill run",
    timings: list[Timing] | None = None,
) -> str:
    """Write RUN/report/index.html, atomically, and return its path. Same run, same bytes.

    `timings` default to RUN/timings.json, where that is. The page loads nothing from anywhere: pictures are inlined,
    and their number is halved until it fits `config.max_bytes`.

    Raises:
        LedgerError: the run does not account for every sample.
    """
    html = render_report(run_dir, config, space, run_config=run_config, title=title, timings=timings)
    write_file(report_path(run_dir), html + CHECK.format(bytes_hash(html)).encode())
    return report_path(run_dir)


def render_report(
    run_dir: str,
    config: ReportConfig,
    space: LabelSpace,
    *,
    run_config: RunJson = None,
    title: str = "maskmill run",
    timings: list[Timing] | None = None,
    desk: dict[str, Any] | None = None,
) -> bytes:
    """The page of `write_report`. With `desk` (what the page must know to send verdicts) it is the one that
    `maskmill review` serves.
    """
    page = Page(run_dir, load_tables(run_dir), build_ledger(run_dir), space, config, desk)
    about = {
        "fingerprint": report_fingerprint(run_dir, config, space, run_config, title),
        "versions": package_versions(),
        "stages": stages(run_dir),
        "config_hash": config_hash(_shaping(run_config)),
        "label_space": space.name,
    }
    known = timings if timings is not None else read_timings(run_dir)
    per_reason = config.per_reason
    while True:
        html = page.render(
            per_reason=per_reason, title=title, config=_shaping(run_config), about=about, timings=known
        ).encode()
        if len(html) <= config.max_bytes or per_reason == 1:
            return html
        per_reason //= 2


def why_report(
    run_dir: str, config: ReportConfig, space: LabelSpace, run_config: RunJson = None, title: str = "maskmill run"
) -> str | None:
    """Why the report must be written, in words; None when the one that is there shows this very run."""
    try:
        html = read_bytes(report_path(run_dir))
    except FileNotFoundError:
        return "not done yet"
    if fault := report_fault(html):
        return f"damaged ({fault})"
    found = STAMP.search(html[:4096])
    if found and found.group(1).decode() == report_fingerprint(run_dir, config, space, run_config, title):
        return None
    return "what it shows changed"


def report_fault(html: bytes) -> str | None:
    """What is wrong with a report, every byte of it looked at; None where nothing is. Earlier versions wrote no hash:
    of those the end must be there.
    """
    body, mark, rest = html.rpartition(CHECK.partition("{")[0].encode())
    if not mark:
        return None if html.rstrip().endswith(b"</html>") else "cut off"
    return None if rest == CHECK.format(bytes_hash(body)).encode()[len(mark) :] else "another content than was written"


def report_fingerprint(run_dir: str, config: ReportConfig, space: LabelSpace, run_config: RunJson, title: str) -> str:
    """What a report depends on: the contents of all shards, the run it is compared with, configs and versions (not
    timings).
    """
    paths = [path for name in ("samples", "rejects", "scores", "labels") for path in list_shards(f"{run_dir}/{name}")]
    paths += [f"{run_dir}/neighbours.parquet", f"{run_dir}/decisions.parquet"]
    if config.previous:
        old = config.previous
        paths.append(old if old.endswith(".parquet") else f"{old}/decisions.parquet")
    paths += [path for path in [f"{run_dir}/{SHARD}"] if read_footer(path) is not None]  # only where people reviewed
    contents = [footer.content if (footer := read_footer(path)) else "" for path in paths]
    contents += [str(result.metrics["fingerprint"]) for result in downstream_results(run_dir)]
    about: dict[str, object] = {"version": VERSION, "title": title, "versions": package_versions()}
    about |= {"config": config.model_dump(mode="json"), "run": _shaping(run_config)}
    return content_id(*contents, space.fingerprint, config_hash(about))


def stages(run_dir: str) -> list[tuple[str, str, int]]:
    """Stages in the order of the run: name, config hash, number of shards."""
    found: dict[tuple[str, str], int] = {}
    folders = [path for name in ("samples", "scores") for path in list_shards(f"{run_dir}/{name}")]
    for path in [*folders, f"{run_dir}/neighbours.parquet", f"{run_dir}/decisions.parquet"]:
        if (footer := read_footer(path)) is not None:
            key = (footer.stage, footer.config_hash)
            found[key] = found.get(key, 0) + 1
    return [(stage, config, number) for (stage, config), number in found.items()]


def read_timings(run_dir: str) -> list[Timing]:
    """Timings from RUN/timings.json: a list of {"name", "seconds", "rows", "device"}; [] where there is none, or one
    that was cut off: times are no result, and the next run notes them anew. The report's own time is left out: a report
    that is made again has the bytes that it had.
    """
    try:
        found = [Timing.model_validate(item) for item in parse_json(read_bytes(f"{run_dir}/timings.json"))]
    except (FileNotFoundError, ValueError):
        return []
    return [timing for timing in found if timing.name != "report"]


def report_summary_markdown(run_dir: str, space: LabelSpace | None = None) -> str:
    """The run in one screen of Markdown: alarms (with a label space), ledger, planted faults, where the report lies."""
    ledger = build_ledger(run_dir)
    share = ledger.kept / ledger.rows_in if ledger.rows_in else 0.0
    parts = [f"**{ledger.kept:,} of {ledger.rows_in:,} samples kept ({share:.1%})**", ledger.markdown().rstrip()]
    tables = load_tables(run_dir)
    if space is not None and (found := alarms_of(run_dir, tables, ledger, space)):
        parts.insert(0, f"### Look at this first\n\n{alarm_list(found).rstrip()}")
    faults, _ = fault_rows(tables.rows)
    if faults:
        rows = [f"| {label(f.name)} | {f.planted:,} | {f.caught:,} | {f.rate:.0%} |" for f in faults]
        parts.append("\n".join(["| planted | samples | turned away | share |", "|---|---:|---:|---:|", *rows]))
    parts.append(f"Report: `{report_path(run_dir)}`")
    return "\n\n".join(parts) + "\n"


def _shaping(run_config: RunJson) -> dict[str, object]:
    return {key: value for key, value in (run_config or {}).items() if key not in NO_RESULT}
