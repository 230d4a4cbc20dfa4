"""The page about ingest: every snippet is a config that loads, and every source and reason is on it."""

import re
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from maskmill.data_contracts import Reason
from maskmill.pipelines.ingest import SOURCES, Source, SourceConfig

PAGE = (Path(__file__).parents[2] / "docs/ingest.md").read_text()
KINDS = set(SOURCES)


def test_every_snippet_is_a_config() -> None:
    snippets = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    adapter: TypeAdapter[Source] = TypeAdapter(SourceConfig)
    assert {adapter.validate_python(yaml.safe_load(text)).kind for text in snippets} == KINDS


def test_every_source_option_and_ingest_reason_is_explained() -> None:
    for word in (*KINDS, *(name for name in Source.model_fields if name != "kind")):
        assert f"`{word}`" in PAGE, word
    reasons = list(Reason)
    for reason in reasons[reasons.index(Reason.MISSING_IMAGE) : reasons.index(Reason.NOT_READ) + 1]:
        assert f"`{reason}`" in PAGE, reason
