"""The written reference: it is what the code says today, and every option has a description."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import BaseModel

from benchmarks.pages import pages
from benchmarks.pages.configs import layout, models_in
from maskmill.data_contracts import CONTRACTS
from maskmill.data_contracts.schemas import PARTS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def config_models() -> dict[type[BaseModel], None]:
    """Every model that a config may hold, at any depth."""
    found: dict[type[BaseModel], None] = {}
    for page in layout().values():
        for section in page.sections:
            _collect(section.model, found)
    return found


def _collect(model: type[BaseModel], found: dict[type[BaseModel], None]) -> None:
    if model not in found:
        found[model] = None
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                _collect(inner, found)


def keys() -> Iterator[tuple[str, str | None]]:
    for model in config_models():
        for name, field in model.model_fields.items():
            yield f"{model.__module__}.{model.__qualname__}.{name}", field.description


def test_every_key_of_every_config_has_a_description() -> None:
    found = dict(keys())
    assert len(found) > 500
    assert not [key for key, words in found.items() if not (words or "").strip()]


def test_descriptions_are_short_and_without_a_full_stop() -> None:
    for key, words in keys():
        assert words is not None
        assert 2 < len(words) < 260, key
        assert not words.endswith("."), key


def test_the_written_pages_are_what_the_code_says() -> None:
    for path, text in pages().items():
        assert (DOCS / path).read_text() == text, f"docs/{path} is out of date: python -m benchmarks.pages"
    written = {str(path.relative_to(DOCS)) for path in (DOCS / "reference").glob("config/*.md")}
    assert written <= pages().keys(), "pages of configs that are gone"


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_every_column_says_what_it_holds(contract: object) -> None:
    schema, about = contract.schema, contract.about  # type: ignore[attr-defined]
    assert set(about) == set(schema.names)
    assert all(about.values())
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(kind) and {item.name for item in kind} != {"bytes", "path"}:
            assert set(PARTS[field.name]) == {item.name for item in kind}
