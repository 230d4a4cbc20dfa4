"""The dataset card: what is in an export, where it came from, what was left out and why, and how to load it."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from maskmill.data_contracts import IGNORE, LabelSpace, Manifest
from maskmill.data_contracts.secrets import portable_path
from maskmill.data_contracts.words import in_markdown
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts, Summary
from maskmill.pipelines.export.features import hex_colour
from maskmill.pipelines.export.sample import Record

HUB_LICENCES = {  # SPDX identifiers that dataset hubs know, in their spelling
    name.lower(): name.lower()
    for name in (
        "Apache-2.0",
        "MIT",
        "CC0-1.0",
        "CC-BY-4.0",
        "CC-BY-3.0",
        "CC-BY-SA-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-NC-4.0",
        "ODbL",
    )
}
REVIEWED = (
    "What people said counted for more than scores. Relabelled samples keep the id of what was ingested; their masks "
    "hold the new class."
)
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def manifest(facts: Facts, space: LabelSpace) -> Manifest:
    """The export's manifest. Its config is that of the run with the export's own under `export`."""
    classes: Counter[int] = Counter()
    for split in facts.summary.classes.values():
        classes.update(split)
    return Manifest(
        name=facts.title,
        rows=facts.ledger.rows_in,
        counts=facts.ledger.counts,
        class_counts={space.by_id[i].name: n for i, n in sorted(classes.items()) if i in space.by_id},
        shards=list(facts.shards),
        label_space=space.name,
        config=facts.config,
        config_hash=facts.config_hash,
        versions=facts.versions,
        licences=facts.licences,
        lineage=list(facts.lineage),
    )


def dataset_card(facts: Facts, options: Exporter, space: LabelSpace, records: list[Record], loading: str) -> str:
    """The card: a YAML header that dataset hubs read, then Markdown for people."""
    licences = [HUB_LICENCES.get(name.lower(), "other") for name in facts.licences]
    header: dict[str, Any] = {
        "pretty_name": facts.title,
        "license": licences[0] if len(set(licences)) == 1 else sorted(set(licences)),
        **_license_name(facts.licences),
        "task_categories": ["image-segmentation"],
        "size_categories": [next((name for limit, name in SIZES if facts.summary.rows < limit), "n>10M")],
        **options.header(records, space),
    }
    sections = [
        f"# {in_markdown(facts.title)}\n\n{facts.description}",
        f"## Load it\n\n```python\n{loading}\n```",
        "## Splits and classes\n\n" + _class_table(facts.summary, options, space),
        "## Ledger\n\nEvery sample that came in, and where it went.\n\n" + facts.ledger.markdown().rstrip(),
        "## Where the samples come from\n\n" + _origin(facts.summary),
        "## How it was made\n\n" + _lineage(facts),
    ]
    if review := facts.ledger.review:
        sections.insert(4, f"## Review\n\n{in_markdown(review.words)} {REVIEWED}")
    if notes := options.notes(records):
        sections.insert(2, "## Good to know\n\n" + "\n".join(f"- {note}" for note in notes))
    top = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{top}---\n\n" + "\n\n".join(sections) + "\n"


def _license_name(licences: list[str]) -> dict[str, str]:
    """What hubs ask for beside `license: other`: the names of those licences that they do not know."""
    others = [name for name in licences if name.lower() not in HUB_LICENCES]
    return {"license_name": ", ".join(others)} if others else {}


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    ruler = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ruler, *rows))


def _class_table(summary: Summary, options: Exporter, space: LabelSpace) -> str:
    splits = list(options.splits)
    pixels = sum(summary.pixels.values())
    rows = [["**samples**", "", "", *(f"**{summary.splits.get(s, 0):,}**" for s in splits), ""]]
    names = {i: space.by_id[i].name for i in space.ids}
    if space.background_id is not None:
        names = {space.background_id: "background", **names}
    for class_id, name in {**names, IGNORE: "ignored"}.items():
        counts = [summary.classes.get(s, {}).get(class_id, 0) for s in splits]
        if not any(counts) and not summary.pixels.get(class_id):
            continue
        shown = [f"{n:,}" if class_id in space.by_id else "" for n in counts]
        share = f"{summary.pixels.get(class_id, 0) / pixels:.2%}" if pixels else ""
        number = options.number_of(class_id, space)
        rows.append(
            [in_markdown(name), "" if number is None else str(number), hex_colour(class_id, space), *shown, share]
        )
    absent = len(space.ids) - len({i for counts in summary.classes.values() for i in counts})
    words = (
        f"\n\n{absent} of the {len(space.ids)} classes of label space {in_markdown(space.name)} do not occur."
        if absent
        else ""
    )
    return _table(["class", "number in the files", "colour", *splits, "pixels"], rows) + words


def _origin(summary: Summary) -> str:
    parts = []
    for head, counts in (
        ("source", summary.sources),
        ("licence", summary.licences),
        ("model and revision", summary.models),
    ):
        if counts:
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            parts.append(
                _table([head, "samples"], ([in_markdown(portable_model(name)), f"{n:,}"] for name, n in ordered))
            )
    if summary.prompted:
        examples = "\n".join(f"- {in_markdown(prompt)}" for prompt in summary.prompts)
        parts.append(f"{summary.prompted:,} samples were made from a prompt, for example:\n\n{examples}")
    if summary.seeds:
        parts.append(f"Seeds: {summary.seeds[0]} to {summary.seeds[1]}. Every sample's own is in its provenance.")
    return "\n\n".join(parts)


def portable_model(name: str) -> str:
    """`id@revision` without the place of a local folder."""
    model, mark, revision = name.rpartition("@")
    return f"{portable_path(model)}@{revision}" if mark else portable_path(name)


def _lineage(facts: Facts) -> str:
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(facts.lineage, start=1))
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    config = json.dumps(facts.config, indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f"{steps}\n\nConfig hash `{facts.config_hash}`. Versions: {versions}.\n\n"
        f"<details><summary>Config</summary>\n\n```json\n{config}\n```\n\n</details>"
    )
