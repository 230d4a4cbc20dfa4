"""Run configs: presets load, unknown keys and files are refused in words, `extends`, overrides and variables work."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from maskmill.pipelines.core.settings import CONFIGS, ConfigError, load_settings, parse_nested, save_settings
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.reproduce import Recipe
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.steps import STEPS, Row, steps_of
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


def test_a_stage_of_another_name_is_refused_with_the_names_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "sizes", Row("tests.throwaway.sizes"))
    with pytest.raises(ConfigError, match=r"stages.sises: no such stage.*sizes"):
        steps_of(load_run_config("planted-faults", {"stages.sises": {}}))


def test_an_option_that_a_stage_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS, "sizes", Row("tests.throwaway.sizes"))
    with pytest.raises(ConfigError, match=r"(?s)stages.sizes.*tims"):
        steps_of(load_run_config("planted-faults", {"stages.sizes.tims": 2}))
    config = load_run_config("planted-faults", {"stages.sizes.times": 2})
    assert steps_of(config)[-1] == "sizes"


def test_runs_without_further_stages_keep_the_hashes_that_they_had() -> None:
    assert "stages" not in load_run_config("planted-faults").model_dump(mode="json")
    assert load_run_config("planted-faults", {"stages.sizes": {}}).model_dump(mode="json")["stages"] == {"sizes": {}}


def test_configs_that_extend_each_other_are_told_as_a_chain(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("extends: two.yaml\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\n")
    with pytest.raises(ConfigError, match=r"extends itself: one.yaml → two.yaml → one.yaml"):
        load_run_config(str(tmp_path / "one.yaml"))


def test_what_is_no_config_is_told_with_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match=r"photo.jpg: expected .*UTF-8"):
        load_run_config(str(tmp_path / "photo.jpg"))
    with pytest.raises(ConfigError, match=rf"`folder --set source.root={tmp_path}`"):
        load_run_config(str(tmp_path))


def test_a_name_alone_is_that_kind_with_its_defaults() -> None:
    config = load_run_config("planted-faults", {"export": ["voc", "coco"]})
    assert [one.format for one in config.export] == ["voc", "coco"]
    with pytest.raises(ConfigError, match=r"export: expected a list, e.g. \[a, b\] \(found 'voc'\)"):
        load_run_config("planted-faults", {"export": "voc"})


def test_a_run_folder_is_the_config_that_made_it(tmp_path: Path) -> None:
    save_settings(load_run_config("planted-faults", {"run_dir": str(tmp_path), "seed": 7}), str(tmp_path))
    assert load_run_config(str(tmp_path)).seed == 7


def test_a_step_that_the_run_does_not_have_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = load_run_config("demo", {"run_dir": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match="'ingest' is no step of this run; steps: generate"):
        run(config, until="ingest")
    assert not (tmp_path / "run").exists()


FOLDERS: dict[str, type[BaseModel]] = {
    "label": LabelConfig,
    "train": TrainConfig,
    "build": BuildConfig,
    "scribbles": ScribbleConfig,
    "reproduce": Recipe,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_labelling_and_training_preset_loads(path: Path) -> None:
    config = load_settings(f"{path.parent.name}/{path.stem}", FOLDERS[path.parent.name])
    if isinstance(config, LabelConfig):
        config.labeler_config()
    if isinstance(config, TrainConfig | BuildConfig):
        (config.train if isinstance(config, BuildConfig) else config).trainer_config()


def test_settings_of_a_trainer_may_be_nested() -> None:
    assert parse_nested(["a.b=0.9", "a.c=[1, 2]", "d=x"]) == {"a": {"b": 0.9, "c": [1, 2]}, "d": "x"}
    assert parse_nested(None) == {}
    with pytest.raises(ConfigError):
        parse_nested(["a=1", "a.b=2"])
