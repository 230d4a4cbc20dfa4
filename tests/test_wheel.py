"""What people install: a wheel with one package and everything in it, and that other people's folders cannot break it.

The wheel, and the checkout as an editable install, each go into a clean environment that borrows the packages which
these tests run on. Foreign packages with the names of our rooms, which raise when they are imported, lie in
site-packages, and in the working directory, too, except where a folder is to be empty.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.prefect_server import running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data_contracts", "vision", "generators", "curation", "trainers", "labelers", "pipelines", "starter")
FOREIGN = (*ROOMS, "configs", "benchmarks", "tests")
RAISES = "raise RuntimeError('somebody else imported this')\n"
LAYOUTS = ("wheel", "editable")
RUN = {
    "name": "small",
    "run_dir": "run",
    "source": {"kind": "drawn", "count": 6, "scene": {"size": 96}},
    "score": {"preset": "starter"},
    "select": {"preset": "starter"},
    "export": [{"format": "voc"}],
}
PROBE = """
import json, pickle, pickletools, sys

import numpy as np

import maskmill
from maskmill.data_contracts import load_label_space
from maskmill.pipelines.ingest.drawn import DrawnSource
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.vision.refine.pool import CrfOptions, refine_many

def main():
    item = np.zeros((16, 16, 3), np.uint8), np.full((2, 16, 16), 0.5, np.float32)
    alone, together = refine_many([item] * 3), refine_many([item] * 3, workers=2)
    values = [load_label_space("voc"), DrawnSource(), TrainConfig(data={"samples": "x"}), CrfOptions()]
    operations = [found for value in values for found in pickletools.genops(pickle.dumps(value, protocol=2))]
    print(json.dumps({
        "home": maskmill.__file__,
        "same": all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True)),
        "pickled": sorted({str(word).split()[0] for code, word, _ in operations if code.name == "GLOBAL"}),
        "foreign": sorted({"ROOMS"} & set(sys.modules)),
    }))

if __name__ == "__main__":
    main()
"""


@dataclass(frozen=True)
class Home:
    """An environment that maskmill is installed in."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def packages(self) -> Path:
        return next((self.folder / "lib").glob("python*")) / "site-packages"

    def run(self, cwd: Path, *command: str, env: dict[str, str] | None = None) -> str:
        """What the command says. The checkout is not on its path, unless this environment has put it there."""
        clean = {key: value for key, value in (env or dict(os.environ)).items() if key != "PYTHONPATH"}
        done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def build(what: str, source: Path, out: Path) -> Path:
    """A `wheel`, `editable` wheel or `sdist` of a source folder, by the hook that pip and build call."""
    code = f"import hatchling.build, sys; print(hatchling.build.build_{what}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def install(home: "Home", wheel: Path) -> None:
    python = [sys.executable, "-m", "pip", "--python", home.python, "install"]
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*python, *options, str(wheel)], check=True)


def foreign_folders(folder: Path) -> None:
    """Packages of somebody else with the names of our rooms, and a flows.py."""
    for name in FOREIGN:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(RAISES)
    (folder / "flows.py").write_text(RAISES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def homes(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Home]:
    """A clean environment for each layout, foreign packages in its site-packages."""
    found = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        home = Home(folder / "env")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home.folder)], check=True)
        install(home, wheel if layout == "wheel" else build("editable", ROOT, folder))
        # Only now: pip must not take what this environment borrows for installed. A path that a .pth file adds is
        # searched last, and .pth files in it (an editable maskmill among them) are not read.
        (home.packages / "zz_borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        foreign_folders(home.packages)
        found[layout] = home
    return found


@pytest.fixture(scope="module")
def run_folder(homes: dict[str, Home], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but a config in it, after `maskmill run` of the installed wheel."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "small.yaml").write_text(yaml.safe_dump(RUN))
    homes["wheel"].run(folder, str(homes["wheel"].folder / "bin" / "maskmill"), "run", "small.yaml")
    return folder


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A working directory in which somebody has folders of the same names."""
    foreign_folders(tmp_path)
    return tmp_path


def files_of(folder: Path) -> Iterator[str]:
    """All files below a folder, links followed, as `maskmill/…`."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (str((Path(parent) / name).relative_to(folder.parent)) for name in names)


def records(wheel: Path) -> set[str]:
    """Every file of a wheel with its hash and size."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("RECORD"))
        return set(archive.read(name).decode().split())


def test_a_wheel_holds_one_package_with_every_file_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"maskmill"}
    assert len(names) == len(set(names))
    assert {name for name in names if name.startswith("maskmill/")} == set(files_of(ROOT / "maskmill"))
    assert wheel.stat().st_size < 80e6


def test_an_sdist_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    again = build("wheel", next((tmp_path / "source").iterdir()), tmp_path)
    assert records(again) == records(wheel)


def test_a_run_from_an_empty_folder(run_folder: Path) -> None:
    ledger = json.loads((run_folder / "run" / "ledger.json").read_text())
    assert sum(shard["rows_in"] for shard in ledger["shards"]) == RUN["source"]["count"]  # type: ignore[index]
    assert (run_folder / "run" / "report" / "index.html").stat().st_size > 10_000
    assert list((run_folder / "run" / "export" / "voc").rglob("*.png"))


def test_flows_are_deployed_from_an_empty_folder(homes: dict[str, Home], tmp_path: Path) -> None:
    names = (
        "curate_synthetic",
        "pseudo_label",
        "build_segmenter",
    )
    deployments = [
        {"name": "mine", "entrypoint": f"maskmill.flows.{name}", "work_pool": {"name": "mine"}} for name in names
    ]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"name": "mine", "deployments": deployments}))
    prefect = (homes["wheel"].python, "-m", "prefect", "--no-prompt")
    with running_server(tmp_path) as env:
        homes["wheel"].run(folder, *prefect, "work-pool", "create", "mine", "--type", "process", env=env)
        homes["wheel"].run(folder, *prefect, "deploy", "--all", env=env)
        listed = homes["wheel"].run(folder, *prefect, "deployment", "ls", env={**env, "COLUMNS": "200"})
    for name in names:
        assert f"{name.replace('_', '-')}/mine" in listed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_folders_break_no_command(layout: str, homes: dict[str, Home], run_folder: Path, taken: Path) -> None:
    home, small = homes[layout], str(run_folder / "small.yaml")
    assert "Curate" in home.run(taken, str(home.folder / "bin" / "maskmill"), "--help")
    home.run(taken, home.python, "-m", "maskmill", "ingest", small)
    settings = {"steps": 2, "batch": 2, "augment": {"size": 32}, "runtime": {"workers": 1, "device": "cpu"}}
    train = {"trainer": "supervised", "data": {"samples": "run/samples"}, "settings": settings}
    (taken / "train.yaml").write_text(yaml.safe_dump(train))
    home.run(taken, home.python, "-m", "maskmill", "train", "train.yaml", "--out", "trained")
    assert (taken / "trained" / "artifact" / "model.safetensors").is_file()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_folders_break_no_import_no_worker_and_no_pickle(
    layout: str, homes: dict[str, Home], taken: Path
) -> None:
    home = homes[layout]
    rooms = '", "'.join((*FOREIGN, "flows"))
    (taken / "probe.py").write_text(PROBE.replace("ROOMS", rooms))
    said = json.loads(home.run(taken, home.python, "probe.py"))
    assert said["home"].startswith(str(ROOT if layout == "editable" else home.packages))
    assert said["same"]
    assert said["foreign"] == []
    ours = {name for name in said["pickled"] if name.split(".")[0] in {"maskmill", *FOREIGN}}
    assert all(name.startswith("maskmill.") for name in ours), ours
    assert {name.split(".")[1] for name in ours} >= {"data_contracts", "pipelines", "vision"}
