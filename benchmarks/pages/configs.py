"""The reference of configs: which page holds which model, and what stands above its table."""

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from benchmarks.pages.tables import kind, table
from maskmill.curation.base import ScorerConfig
from maskmill.curation.select.config import Calibrated
from maskmill.data_contracts import LabelSpace
from maskmill.generators.config import ControlConfig
from maskmill.generators.prompts import CaptionConfig
from maskmill.labelers.base import LabelerConfig
from maskmill.labelers.registry import LABELERS, get_labeler
from maskmill.pipelines.export import EXPORTERS, Exporter
from maskmill.pipelines.ingest import SOURCES, Source
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.build import BuildConfig
from maskmill.pipelines.stages.evaluate import EvaluateConfig
from maskmill.pipelines.stages.evaluate_volumes import VolumesConfig
from maskmill.pipelines.stages.from_masks import FromMasksConfig
from maskmill.pipelines.stages.label import LabelConfig
from maskmill.pipelines.stages.score import SCORER_KINDS
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.scribbles import ScribbleConfig
from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.registry import TRAINERS, get_trainer
from maskmill.vision.segmenters import SegmenterConfig

FOLDER = "reference/config"


@dataclass(frozen=True)
class Section:
    """One table: its heading, the model, and the model whose keys it has beside its own."""

    title: str
    model: type[BaseModel]
    base: type[BaseModel] | None = None


@dataclass(frozen=True)
class Page:
    """One page: its heading, what it is about, and its tables; nested models get theirs behind them."""

    title: str
    words: str
    sections: tuple[Section, ...]


def layout() -> dict[str, Page]:
    """The pages by file name, in the order in which models are given a home."""
    sources = [Section(f"kind: {name}", SOURCES.load(name), Source) for name in SOURCES]
    formats = [Section(f"format: {name}", EXPORTERS.load(name), Exporter) for name in EXPORTERS]
    trainers = [Section(f"trainer: {name}", get_trainer(name).Config, TrainerConfig) for name in sorted(TRAINERS)]
    labelers = [Section(f"labeler: {name}", get_labeler(name).Config, LabelerConfig) for name in sorted(LABELERS)]
    scorers = [Section(f"score, kind: {name}", SCORER_KINDS.load(name)) for name in SCORER_KINDS]
    return {
        "run": Page(
            "A run",
            "`maskmill run CONFIG`, and the commands of its steps. `select.rho` below is the key `rho` of the options "
            "`select`: on the command line `--set select.rho=0.7`.",
            (Section("Keys of a run", RunConfig), *scorers, Section("A calibrated threshold", Calibrated)),
        ),
        "sources": Page(
            "Sources",
            "What stands under `source` of a run, told apart by `kind`. [Ingest](../../ingest.md) explains each with "
            "examples.",
            (Section("Keys of every source", Source), *sources),
        ),
        "exports": Page(
            "Exports",
            "Entries of the list `export` of a run, told apart by `format`. [Export](../../export.md) explains them.",
            (Section("Keys of every format", Exporter), *formats),
        ),
        "train": Page(
            "Training",
            "`maskmill train CONFIG --out DIR`. The trainer's own keys stand under `settings`.",
            (
                Section("Keys of a training", TrainConfig),
                Section("Keys of every trainer", TrainerConfig),
                Section("Augmentation", AugmentConfig),
                Section("Networks", SegmenterConfig),
                *trainers,
            ),
        ),
        "label": Page(
            "Labelling",
            "`maskmill label shards CONFIG --out DIR`. The labeler's own keys stand under `settings`; commands such as "
            "`maskmill label clip-cam` take them with `--set`.",
            (Section("Keys of a labelling", LabelConfig), Section("Keys of every labeler", LabelerConfig), *labelers),
        ),
        "build": Page(
            "Build and evaluate",
            "`maskmill build CONFIG --out DIR` trains and tests. The other tables are what Python takes.",
            (
                Section("Keys of a build", BuildConfig),
                Section("Evaluation", EvaluateConfig),
                Section("Evaluation of volumes", VolumesConfig),
            ),
        ),
        "scribbles": Page(
            "Scribbles",
            "`maskmill label read-scribbles CONFIG --out DIR`.",
            (Section("Keys of scribbles", ScribbleConfig),),
        ),
        "generation": Page(
            "Generation in Python",
            "Pairs from text are keys of a run (`generate`); these two are what Python takes, see "
            "[Generating pairs](../../generate.md).",
            (
                Section("From masks", FromMasksConfig),
                Section("ControlNet", ControlConfig),
                Section("Captions of a file", CaptionConfig),
            ),
        ),
        "label-space": Page(
            "Label spaces",
            "A YAML file, or the value of `label_space` itself. `maskmill` brings voc, coco, camvid, acdc, foreground "
            "and objects along.",
            (Section("Keys of a label space", LabelSpace),),
        ),
    }


def config_pages() -> dict[str, str]:
    """Text of each page by its path under docs/."""
    shelves = _with_nested(layout())
    homes = {
        section.model: (name, section.title)
        for name, (_, sections) in reversed(shelves.items())
        for section in reversed(sections)
    }
    return {f"{FOLDER}/{name}.md": _text(name, page, sections, homes) for name, (page, sections) in shelves.items()}


def _with_nested(pages: dict[str, Page]) -> dict[str, tuple[Page, list[Section]]]:
    """Each page with its tables, those of nested models after the one that names them first."""
    known: set[type[BaseModel]] = {
        ScorerConfig,
        *(section.model for page in pages.values() for section in page.sections),
    }
    found: dict[str, tuple[Page, list[Section]]] = {}
    for name, page in pages.items():
        sections: list[Section] = []
        for section in page.sections:
            sections += [section, *_nested(section.model, section.title, known)]
        found[name] = (page, sections)
    return found


def _nested(model: type[BaseModel], title: str, known: set[type[BaseModel]]) -> Iterator[Section]:
    for key, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            if inner not in known:
                known.add(inner)
                path = key if title.startswith("Keys of") else f"{title.split(': ')[-1]}.{key}"
                yield Section(path, inner)
                yield from _nested(inner, path, known)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Config models that a type names."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def _text(name: str, page: Page, sections: list[Section], homes: dict[type[BaseModel], tuple[str, str]]) -> str:
    def link(model: type[BaseModel]) -> str | None:
        if (home := homes.get(SCORER_KINDS.load("sds") if model is ScorerConfig else model)) is None:
            return None
        other, title = home
        return f"{'' if other == name else other + '.md'}#{anchor(title)}"

    parts = [f"# {page.title}", page.words]
    for section in sections:
        parts += [f"## {section.title}", _doc(section.model)]
        if section.base is not None and (target := link(section.base)):
            parts.append(f"Beside these: the [keys of every {_what(name)}]({target}).")
        parts.append(table(section.model, link, section.base) or "No keys of its own.")
    return "\n\n".join(part for part in parts if part)


def _what(page: str) -> str:
    return {"sources": "source", "exports": "format", "train": "trainer"}.get(page, page)


def _doc(model: type[BaseModel]) -> str:
    """The first paragraphs of a model's docstring: what is for those who write code stands behind them."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return text.split("\nRaise ")[0].split("\nThe methods ")[0].strip()


def anchor(title: str) -> str:
    """What a heading is called in a link (as Python-Markdown's toc makes it)."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


__all__ = ["config_pages", "kind", "layout", "models_in"]
