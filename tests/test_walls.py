"""The walls of the house: imports only point down, nobody walks in a circle, an addition is one file and one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from graphlib import CycleError
from pathlib import Path

import polars as pl
import pytest
import yaml

from maskmill.data_contracts import PSEUDO_LABEL, list_shards, read_shard
from tests.import_graph import Graph, among_siblings, check_no_circle, import_graph, top_level_names, upward

ROOT = Path(__file__).resolve().parent.parent
THROWAWAY = Path(__file__).parent / "throwaway"
ROOMS = ("data_contracts", "vision", "generators", "curation", "trainers", "labelers", "pipelines", "configs")
ONE_FILE = {  # what → where it goes
    "stripes.py": "pipelines/ingest/stripes.py",
    "area.py": "curation/area.py",
    "sizes.py": "pipelines/stages/sizes.py",
    "names.py": "pipelines/export/names.py",
    "bright.py": "labelers/bright.py",
    "bright_command.py": "pipelines/cli/label_commands/bright.py",
    "pixelwise.py": "trainers/pixelwise.py",
}
ONE_LINE = (  # table, the row that comes after, the row that is added
    ("pipelines/ingest/__init__.py", "folder", '"stripes": "maskmill.pipelines.ingest.stripes:StripesSource",'),
    ("curation/registry.py", "sds", '"area": "maskmill.curation.area",'),
    ("pipelines/run/steps.py", "export", '"sizes": Row("maskmill.pipelines.stages.sizes"),'),
    ("pipelines/export/__init__.py", "voc", '"names": "maskmill.pipelines.export.names:NamesExport",'),
    ("labelers/registry.py", "clip_cam", '"bright": "maskmill.labelers.bright",'),
    ("trainers/registry.py", "proposals", '"pixelwise": "maskmill.trainers.pixelwise",'),
)
RUN = {
    "name": "new",
    "run_dir": "run",
    "label_space": "voc",
    "source": {"kind": "stripes", "count": 5},
    "shard_size": 3,
    "score": {"kind": "area", "scale": 2.0},
    "select": {"preset": "faithful", "rho": 1.0},
    "stages": {"sizes": {"times": 10}},
    "export": [{"format": "names", "splits": {"train": 1.0}}],
}
LABEL = {"labeler": "bright", "samples": "run/samples", "settings": {"above": 50}}
TRAIN = {"trainer": "pixelwise", "data": {"samples": "run/samples"}, "settings": {"steps": 2, "batch": 2}}
COMMANDS = (
    ("run", "new.yaml"),
    ("run", "new.yaml"),
    ("label", "shards", "label.yaml", "--out", "labels"),
    ("label", "bright", "photos"),
    ("train", "train.yaml", "--out", "trained"),
)
SESSION = """
import json
from maskmill.pipelines.cli.main import app
for command in json.loads(COMMANDS):
    app(command, standalone_mode=False)
from maskmill.trainers.registry import load_artifact
import numpy as np
labels = load_artifact("trained/artifact", "cpu").predict([np.zeros((20, 30, 3), np.uint8)])[0].labels
print("predicted", labels.shape)
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(ROOT / "maskmill")


def layers() -> dict[str, list[list[str]]]:
    """The floors as .importlinter has them, top first, by the package that they divide."""
    rules = ConfigParser()
    rules.read(ROOT / ".importlinter")
    return {
        rule["containers"].strip(): [line.replace("|", " ").split() for line in rule["layers"].split("\n") if line]
        for rule in (rules[name] for name in rules.sections())
        if rule.get("type") == "layers"
    }


def test_no_module_and_no_room_imports_itself_through_others(graph: Graph) -> None:
    check_no_circle(graph)
    for parent in {name.rpartition(".")[0] for name in graph} - {""}:
        check_no_circle(among_siblings(graph, parent))


def test_no_import_goes_up(graph: Graph) -> None:
    assert set(layers()) == {"maskmill", "maskmill.pipelines"}
    for parent, floors in layers().items():
        rooms = among_siblings(graph, parent)
        assert {name for layer in floors for name in layer} >= {name for name in rooms if not name.startswith("_")}
        assert upward(rooms, floors) == []


def test_flows_hold_prefect_and_nothing_but_pipelines(graph: Graph) -> None:
    assert among_siblings(graph, "maskmill")["flows"] == {"pipelines"}
    allowed = {"maskmill", "prefect", "prefect_ray", "pydantic"} | sys.stdlib_module_names
    assert top_level_names(ROOT / "flows.py") <= allowed


@pytest.mark.parametrize(
    "back",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high.roof import tile",
        "def open():\n    import house.high.roof",
        "def open():\n    from ..high import roof",
    ],
    ids=["for types only", "inside a function", "relative"],
)
def test_hidden_imports_are_seen(back: str, tmp_path: Path) -> None:
    for name, text in {"high/roof.py": "from house.low import cellar", "low/cellar.py": back}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
        (path.parent / "__init__.py").touch()
    (tmp_path / "house" / "__init__.py").touch()
    found = import_graph(tmp_path / "house")
    with pytest.raises(CycleError, match="cycle"):
        check_no_circle(found)
    assert upward(among_siblings(found, "house"), [["high"], ["low"]]) == ["low → high"]


def copy_house(to: Path) -> None:
    """The sources, with the starter models left where they are."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "maskmill", to / "maskmill", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "flows.py", to)
    (to / "starter").symlink_to(ROOT / "starter")


def add_row(table: Path, before: str, row: str) -> None:
    """Put one line above the row `before`."""
    text, places = re.subn(rf'^( +)(?="{before}": )', rf"\1{row}\n\1", table.read_text(), flags=re.MULTILINE)
    assert places == 1, f"{table}: expected one row {before!r}, found {places}"
    table.write_text(text)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a house with one addition of each kind was used, by configs and the command line alone."""
    house, folder = tmp_path_factory.mktemp("house"), tmp_path_factory.mktemp("used")
    copy_house(house)
    for name, place in ONE_FILE.items():
        assert not (house / place).exists()
        shutil.copy(THROWAWAY / name, house / place)
    for table, before, row in ONE_LINE:
        add_row(house / table, before, row)
    for name, config in {"new": RUN, "label": LABEL, "train": TRAIN}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    code = SESSION.replace("COMMANDS", repr(json.dumps(COMMANDS)))
    env = {**os.environ, "PYTHONPATH": str(house), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_a_source_a_scorer_and_an_exporter_are_one_file_and_one_line_each(used: Path) -> None:
    scores = pl.concat([pl.read_parquet(path) for path in list_shards(str(used / "run" / "scores"))])
    assert scores["asf"].to_list() == [0.5] * 5  # twice the square's share
    exported = (used / "run" / "export" / "names" / "train.txt").read_text().split()
    assert sorted(exported) == sorted(scores["sample_id"].to_list())
    assert (used / "run" / "report" / "index.html").is_file()


def test_a_stage_is_one_file_and_one_line_and_reads_its_options(used: Path) -> None:
    sizes = pl.concat([pl.read_parquet(path) for path in list_shards(str(used / "run" / "sizes"))])
    assert sizes["pixels"].to_list() == [10 * 32 * 32] * 5
    assert "Nothing to do" in (used / "said.txt").read_text()  # of the second `maskmill run`


def test_a_labeler_and_its_command_are_a_file_each_and_one_line(used: Path) -> None:
    rows = [row for path in list_shards(str(used / "labels")) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
    assert len(rows) == 5
    assert {row["labeler"] for row in rows} == {"bright"}
    assert "bright: photos" in (used / "said.txt").read_text()


def test_a_trainer_is_one_file_and_one_line(used: Path) -> None:
    assert (used / "trained" / "artifact" / "model.safetensors").is_file()
    assert "predicted (20, 30)" in (used / "said.txt").read_text()
