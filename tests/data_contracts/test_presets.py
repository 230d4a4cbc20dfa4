"""Presets: what they fill in, what they leave alone, and that every config with presets names them in its field."""

import importlib
from typing import Any, ClassVar, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from maskmill.data_contracts import WithPresets, merge
from maskmill.trainers.registry import TRAINERS

ELSEWHERE = [
    "curation.sds.config.SdsConfig",
    "curation.select.config.SelectConfig",
    "labelers.a2gnn.Config",
    "labelers.clip_cam.Config",
    "trainers.few_shot.priors.config.PriorConfig",
]


class Paint(WithPresets):
    model_config = ConfigDict(extra="forbid")

    presets: ClassVar = {"starter": {"coats": 2}, "faithful": {"coats": 5, "colour": "red"}}
    preset: Literal["starter", "faithful"] = "starter"
    coats: int = 1
    colour: str = "white"


@pytest.mark.parametrize(
    ("given", "coats", "colour"),
    [
        ({}, 2, "white"),
        ({"preset": "faithful"}, 5, "red"),
        ({"preset": "faithful", "coats": 3}, 3, "red"),
    ],
)
def test_a_preset_gives_what_is_not_given(given: dict[str, Any], coats: int, colour: str) -> None:
    assert Paint.model_validate(given) == Paint.model_construct(
        preset=given.get("preset", "starter"), coats=coats, colour=colour
    )


@pytest.mark.parametrize(
    ("place", "given", "kept"),
    [  # one nested key given: the rest of the preset stays
        ("trainers.abd", {"preset": "faithful", "partner": {"weights": "F"}}, "partner"),
        ("trainers.few_shot", {"preset": "scl", "episodes": {"fold": 1}}, "episodes"),
        ("trainers.few_shot", {"preset": "pi_clip", "priors": {"prompts": "oracle"}}, "priors"),
        ("trainers.dfr", {"preset": "faithful", "segmenter": {"weights": "F"}}, "segmenter"),
        ("trainers.ftmu", {"preset": "faithful", "segmenter": "a", "track": {"gate": 0.1}}, "track"),
        ("trainers.weclip", {"preset": "faithful", "augment": {"size": 256}}, "augment"),
        ("trainers.dcfm", {"preset": "faithful", "augment": {"size": 256}}, "augment"),
    ],
)
def test_settings_are_laid_over_a_preset_at_every_depth(place: str, given: dict[str, Any], kept: str) -> None:
    config: type[WithPresets] = importlib.import_module(f"maskmill.{place}").Config
    rest = {key: value for key, value in given.items() if key != kept}
    plain = config.model_validate(rest).model_dump()[kept]
    found = config.model_validate(given).model_dump()[kept]
    assert found == {**plain, **given[kept]}
    assert plain != type(config.model_validate(rest)).model_fields[kept].get_default(call_default_factory=True)


@pytest.mark.parametrize("preset", ["glossy", 3, ["faithful"], None])
def test_an_unknown_preset_is_named(preset: object) -> None:
    with pytest.raises(ValidationError, match="preset"):
        Paint.model_validate({"preset": preset})


@pytest.mark.parametrize("place", [*(f"{module[9:]}.Config" for module in TRAINERS.values()), *ELSEWHERE])
def test_the_field_and_the_presets_list_the_same_names(place: str) -> None:
    module, name = place.rsplit(".", 1)
    config: type[WithPresets] = getattr(importlib.import_module(f"maskmill.{module}"), name)
    field = config.model_fields.get("preset")
    assert set(config.presets) == (set(get_args(field.annotation)) if field else set())


class Source(BaseModel):
    kind: str = "folder"
    root: str = ""
    size: int = 1


@pytest.mark.parametrize(
    ("base", "top", "found"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}}, {"a": {"x": 3, "y": 2}}),
        ({"a": {"x": {"p": 1}}}, {"a": {"x": {"q": 2}}}, {"a": {"x": {"p": 1, "q": 2}}}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"kind": "voc", "x": 1}}, {"a": {"kind": "coco"}}, {"a": {"kind": "coco"}}),
        ({"a": {"kind": "voc", "x": 1}}, {"a": {"kind": "voc", "y": 2}}, {"a": {"kind": "voc", "x": 1, "y": 2}}),
        ({"a": {"preset": "p", "x": 1}}, {"a": {"preset": "q"}}, {"a": {"preset": "q"}}),
        ({"a": {"kind": "v", "preset": "p", "x": 1}}, {"a": {"preset": "q"}}, {"a": {"preset": "q"}}),
        ({"a": Source(root="r")}, {"a": {"size": 2}}, {"a": {"root": "r", "size": 2}}),
        ({"a": Source(root="r")}, {"a": 3}, {"a": 3}),
    ],
)
def test_merging_key_by_key(base: dict[str, Any], top: dict[str, Any], found: dict[str, Any]) -> None:
    before = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    assert merge(base, top) == found
    assert base == before


def test_an_object_that_is_a_config_already_is_left_alone() -> None:
    made = Paint(preset="faithful", coats=9)
    assert Paint.model_validate(made) == made
    with pytest.raises(ValidationError):
        Paint.model_validate(["coats"])
