"""What configs take from the environment, and credentials in URLs, reach no output and no message."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from maskmill.data_contracts import SAMPLE, secrets
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.deployment import FOLDER, NotAllowedError, deployed
from maskmill.pipelines.core.settings import ConfigError, load_settings
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run, save_config
from maskmill.pipelines.stages.label import LabelConfig
from tests.pipelines.ingest_sets import make_folder
from tests.trainers import shapes

SECRET = "s3kret-Zx91"
TINY = {"model": str(Path(__file__).parents[1] / "data/tiny_clip_timm"), "image_side": 64, "refine": "none"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setattr(secrets, "_references", {})
    monkeypatch.setattr(secrets, "_values", {})


def write(path: Path, config: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


def holders(folder: Path) -> list[str]:
    """Files in which the secret stands."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_a_planted_secret_is_in_no_file_of_a_run(tmp_path: Path) -> None:
    make_folder(tmp_path / f"data-{SECRET}", ["a", "b"])
    config = {
        "name": "pairs $TOKEN",
        "label_space": "voc",
        "run_dir": str(tmp_path / "run"),
        "source": {"kind": "folder", "root": f"{tmp_path}/data-$TOKEN", "licence": "${TOKEN}"},
        "score": TINY,
        "export": [
            {"format": name, "title": "a $TOKEN", "description": "b $TOKEN"}
            for name in ("voc", "coco", "yolo", "webdataset", "hf", "fiftyone")
        ],
    }
    report = run(load_run_config(write(tmp_path / "c.yaml", config)))
    assert report.ledger.ingested == 2
    assert not holders(tmp_path / "run")
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["source"]["root"] == f"{tmp_path}/data-$TOKEN"
    assert load_run_config(str(tmp_path / "run/config.json")).source.root.endswith(SECRET)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@127.0.0.1:1/x",
        f"https://{SECRET}@127.0.0.1:1/x",
        f"s3://key:{SECRET}@bucket/x",
        f"https://127.0.0.1:1/x?token={SECRET}",
        f"https://127.0.0.1:1/x?a=1&X-Amz-Signature={SECRET}",
        f"https://127.0.0.1:1/x?sig={SECRET}",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    sets = ["--set", f"source={{kind: folder, root: '{url}'}}", "--set", f"run_dir={tmp_path}/run"]
    result = CliRunner().invoke(app, ["ingest", "folder", *sets])
    assert result.exit_code == 2
    assert "source.root" in result.output + result.stderr
    assert SECRET not in result.output + result.stderr
    assert not (tmp_path / "run").exists()


def test_a_url_with_credentials_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_URL", f"https://user:{SECRET}@127.0.0.1:1/x")
    source = {"kind": "folder", "root": "$DATA_URL"}
    config = {"name": "x", "run_dir": str(tmp_path / "run"), "label_space": "voc", "source": source}
    loaded = load_run_config(write(tmp_path / "c.yaml", config))
    assert loaded.source is not None
    assert SECRET in loaded.source.root
    save_config(loaded)
    assert not holders(tmp_path)
    result = CliRunner().invoke(app, ["ingest", str(tmp_path / "c.yaml")])
    assert result.exit_code == 2
    assert SECRET not in result.output + result.stderr


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"cannot open {SECRET}/a", "cannot open $TOKEN/a"),
        ("https://me:pw@host/x failed", "https://***@host/x failed"),
        ("GET https://h/x?token=abc&b=1", "GET https://h/x?token=***&b=1"),
        ("s3://bucket/a@b/c.png is fine", "s3://bucket/a@b/c.png is fine"),
        ("/home/me/data: no such folder", "/home/me/data: no such folder"),
    ],
)
def test_messages_are_redacted(message: str, shown: str) -> None:
    secrets.expand({"root": "$TOKEN"})
    assert secrets.redact(message) == shown


def test_only_words_that_are_published_stay_unexpanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "12")
    monkeypatch.setenv("LIST", "[1, 2]")
    given = {"a": "$N", "b": ["${N}x", "$LIST"], "name": "$N", "pattern": "^a$", "c": "$NOT_SET_ANYWHERE"}
    list_of = [1, 2]
    assert secrets.expand(given) == {**given, "a": "12", "b": ["12x", list_of]}
    assert secrets.expand({"b": "$LIST"}) == {"b": list_of}


# Configs that are named from afar


def test_a_parameter_reads_presets_and_the_deployments_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "offered").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "offered"))
    inside = {"name": "x", "run_dir": "runs/x", "source": {"kind": "folder", "root": "."}}
    outside = write(tmp_path / "private.yaml", {**inside, "password": SECRET})
    write(tmp_path / "offered/ok.yaml", inside)
    write(tmp_path / "offered/extends.yaml", {"extends": outside})
    (tmp_path / "offered/link.yaml").symlink_to(outside)
    with deployed():
        assert load_run_config(str(tmp_path / "offered/ok.yaml")).name == "x"
        assert load_run_config("demo").name
        for path in (
            "private.yaml",
            "offered/../private.yaml",
            "offered/extends.yaml",
            "offered/link.yaml",
            "none.yaml",
        ):
            with pytest.raises(NotAllowedError, match=FOLDER):
                load_run_config(str(tmp_path / path))
        with pytest.raises(NotAllowedError):
            load_run_config("demo", {"label_space": outside})
    with pytest.raises(ConfigError, match="password"):  # at home it is said which key
        load_run_config(outside)


@pytest.mark.parametrize(
    "content", [f"password: {SECRET}", f"name: [{SECRET}]", SECRET, f"{SECRET}: {{", f"- {SECRET}"]
)
@pytest.mark.parametrize("model", [RunConfig, LabelConfig])
def test_errors_about_a_config_from_afar_hold_nothing_of_it(tmp_path: Path, content: str, model: Any) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with deployed(), pytest.raises(ConfigError) as error:
        load_settings(str(tmp_path / "c.yaml"), model)
    assert SECRET not in str(error.value)


def test_escapes_in_a_path_do_not_reach_the_terminal(tmp_path: Path) -> None:
    sets = ["--set", 'source={kind: folder, root: "/no\\x1b]0;owned\\x07"}', "--set", f"run_dir={tmp_path}/run"]
    result = CliRunner().invoke(app, ["ingest", "folder", "--set", "label_space=voc", *sets])
    assert result.exit_code == 2
    assert "\x1b" not in result.output + result.stderr
    assert "owned" in result.output + result.stderr


def test_a_planted_secret_is_in_nothing_that_labels_and_models_leave(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(4)]
    shapes.write_rows(tmp_path / f"in-{SECRET}/samples", rows, SAMPLE, shards=2)
    shapes.write_weak(tmp_path / f"in-{SECRET}/weak", rows)
    there, out = f"{tmp_path}/in-$TOKEN", tmp_path / "out"
    space = write(tmp_path / "space.yaml", shapes.SPACE.model_dump(mode="json"))
    clip = {"model": str(Path(TINY["model"]).parent / "tiny_clip"), "image_side": 64, "par_iterations": 1}
    wanted = {"label_space": space, "samples": f"{there}/samples", "weak": f"{there}/weak"}
    label = write(tmp_path / "label.yaml", {**wanted, "settings": {**clip, "min_decided": 0.0}})
    segmenter = {"architecture": "fpn", "weights": "random"}
    options = {"segmenter": segmenter, "augment": {"size": 32}, "batch": 2, "steps": 1}
    data = {"samples": f"{there}/samples", "labels": f"{out}/labels"}
    runtime = {"runtime": {"threads": 1, "progress": False}}
    train = write(tmp_path / "train.yaml", {"label_space": space, "data": data, "settings": {**options, **runtime}})
    own = {"label_space": space, "data": data, "settings": {**options, **runtime}}
    build = write(tmp_path / "build.yaml", {"train": own, "test": {"samples": f"{there}/samples"}})
    for words in (
        ["label", "shards", label, "--out", f"{out}/labels"],
        ["train", train, "--out", f"{out}/model"],
        ["build", build, "--out", f"{out}/built"],
        ["train", train, "--out", f"{out}/none", "--set", "data.labels=$TOKEN/nothing"],
        ["push", f"{out}/none", f"s3://me:{SECRET}@bucket/x"],
    ):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == (2 if f"{out}/none" in words else 0), said.output + said.stderr
        assert SECRET not in said.output + said.stderr
    assert (out / "model/artifact/config.json").is_file()
    assert not holders(out)
    assert "${TOKEN}/samples" in (out / "labels/train.yaml").read_text()


def test_a_short_plain_word_is_hidden_where_it_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_values", {"data": "$ROOT", "tok3n": "$TOKEN"})
    assert secrets.redact("data_contracts: no data in /x/data/y, metadata") == (
        "data_contracts: no $ROOT in /x/$ROOT/y, metadata"
    )
    assert secrets.redact("atok3nb") == "a$TOKENb"
