"""Run configs: presets load, unknown keys and files are refused in words, `extends`, overrides and variables work."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from maskmill.pipelines.core.settings import CONFIGS, ConfigError, load_settings
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.stages.build import BuildConfig
from maskmill.pipelines.stages.label import LabelConfig
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.scribbles import ScribbleConfig

PRESETS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads(preset: str) -> None:
    config = load_run_config(preset)
    assert config.label_space is None or config.space.classes
    assert load_run_config(preset) == config


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="planted-faults"):
        load_run_config("no-such-preset")


def test_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"selekt"):
        load_run_config("planted-faults", {"selekt.pcs_tau": 1})


def test_wrong_value_is_named_with_what_was_found() -> None:
    with pytest.raises(ConfigError, match=r"(?s)shard_size.*found 0"):
        load_run_config("planted-faults", {"shard_size": 0})


def test_overrides_reach_into_nested_keys() -> None:
    config = load_run_config("planted-faults", {"source.count": 7, "run_dir": "elsewhere"})
    assert config.source.kind == "drawn"
    assert config.source.count == 7
    assert config.run_dir == "elsewhere"


def test_extends_is_laid_over_its_parent(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: planted-faults\nname: child\nsource: {count: 5}\n")
    config = load_run_config(str(child))
    assert (config.name, config.shard_size) == ("child", load_run_config("planted-faults").shard_size)
    assert config.source.kind == "drawn"
    assert config.source.count == 5


def test_a_source_of_another_kind_replaces_the_parents(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("extends: planted-faults\nsource: {kind: folder, root: here}\n")
    assert load_run_config(str(child)).source.kind == "folder"


def test_environment_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE_OF_DATA", "/somewhere")
    child = tmp_path / "child.yaml"
    child.write_text("extends: folder\nsource: {root: $PLACE_OF_DATA/set}\n")
    assert load_run_config(str(child)).source.root == "/somewhere/set"


FOLDERS: dict[str, type[BaseModel]] = {
    "label": LabelConfig,
    "train": TrainConfig,
    "build": BuildConfig,
    "scribbles": ScribbleConfig,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_labelling_and_training_preset_loads(path: Path) -> None:
    config = load_settings(f"{path.parent.name}/{path.stem}", FOLDERS[path.parent.name])
    if isinstance(config, LabelConfig):
        config.labeler_config()
    if isinstance(config, TrainConfig | BuildConfig):
        (config.train if isinstance(config, BuildConfig) else config).trainer_config()
