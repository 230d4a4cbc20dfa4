"""Nothing is guessed about other people's masks: what the first ones hold is said, with the line that mends it."""

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.core.step import Again
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.scan import remarks, scan_masks, table
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.run import plan, run
from tests.pipelines.ingest_sets import folder_source as source

TWO = LabelSpace.from_names(["cat", "dog"])


def write_pairs(root: Path, *values: int, count: int = 3) -> Path:
    """Pairs whose masks hold 0 and each of `values`."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        image = np.full((24, 32, 3), 40 * number, np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        for place, value in enumerate(values):
            mask[4:20, 4 * place : 4 * place + 4] = value
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def test_a_scan_counts_masks_and_pixels(tmp_path: Path) -> None:
    scan = scan_masks(source(write_pairs(tmp_path, 1, 255)), None)
    assert scan is not None
    assert (scan.masks, scan.foreground, scan.holders) == (3, [1], {0: 3, 1: 3, 255: 3})
    assert sum(scan.shares.values()) == pytest.approx(1)
    shown = table(scan, source(tmp_path), TWO)
    assert re.search(r"id   1 → +8\.3% of the pixels → cat", shown)
    assert "id 255" in shown
    assert "ignore" in shown


@pytest.mark.parametrize(
    ("values", "options", "space", "line", "fatal"),
    [
        ((255,), {}, TWO, "--set 'label_space=[object]' --set 'source.remap={255: 1}'", True),
        ((255,), {}, LabelSpace.from_names(["cat"]), "--set 'source.remap={255: 1}'", True),
        ((255,), {"remap": {255: "dog"}}, TWO, "--set 'label_space=[object]'", False),
        ((1,), {}, TWO, "--set 'label_space=[object]'", False),
        ((128,), {}, TWO, "--set 'label_space=[object]' --set 'source.remap={128: 1}'", True),
        ((1, 7), {}, TWO, "--set 'source.remap={7: ignore}'", True),
        ((1, 2), {}, TWO, None, False),
        ((1,), {}, LabelSpace.from_names(["cat"]), None, False),
        ((3,), {"group_by": "parent", "names_by_group": {".": "dog"}}, TWO, None, False),
    ],
)
def test_remarks_end_with_the_line_to_copy(
    tmp_path: Path,
    values: tuple[int, ...],
    options: dict[str, object],
    space: LabelSpace,
    line: str | None,
    fatal: bool,
) -> None:
    given = source(write_pairs(tmp_path, *values), **options)
    scan = scan_masks(given, space)
    assert scan is not None
    found = remarks(scan, given, space)
    if line is None:
        assert found == []
    else:
        assert str(found[0]).splitlines()[-1].strip().startswith(line)
        assert found[0].fatal == fatal


@pytest.mark.parametrize("values", [(1,), (255,), (128,), (1, 7, 33)])
def test_without_a_label_space_a_run_stops_and_its_line_mends_it(tmp_path: Path, values: tuple[int, ...]) -> None:
    root = write_pairs(tmp_path / "pets", *values)
    base = ["ingest", "folder", "--set", f"source.root={root}", "--set", f"run_dir={tmp_path / 'run'}"]
    done = CliRunner().invoke(app, base)
    assert done.exit_code == 2
    assert "label_space: not given" in done.stderr
    again = CliRunner().invoke(app, [*base, *shlex.split(done.stderr.strip().splitlines()[-1])])
    assert again.exit_code == 0, again.output
    assert "3 " in again.stdout
    assert "rejected for" not in again.output


def test_plan_stops_there_too_and_writes_nothing(tmp_path: Path) -> None:
    config = load_run_config(
        "folder", {"source.root": str(write_pairs(tmp_path / "pets", 1)), "run_dir": str(tmp_path / "r")}
    )
    with pytest.raises(ConfigError, match="label_space: not given"):
        plan(config)
    with pytest.raises(ConfigError, match="label_space: not given"):
        run(config)
    assert not (tmp_path / "r" / "config.json").exists()


def test_a_run_is_called_after_its_source(tmp_path: Path) -> None:
    config = load_run_config("folder", {"source.root": str(tmp_path / "my pets"), "label_space": ["cat"]})
    assert (config.name, config.run_dir) == ("my-pets", "runs/my-pets")
    assert config.space == LabelSpace.from_names(["cat"])
    assert load_run_config("planted-faults").space == load_label_space("voc")


def test_a_folder_of_another_source_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_pairs(tmp_path / name, 1, count=2)
    sets = {"label_space": ["pet"], "run_dir": str(tmp_path / "run")}
    cats, dogs = (load_run_config("folder", {**sets, "source.root": str(tmp_path / n)}) for n in ("cats", "dogs"))
    run(cats, until="ingest")
    with pytest.raises(ConfigError, match=r"(?s)cats.*dogs.*--replace"):
        run(dogs, until="ingest")
    assert "cats" in (tmp_path / "run" / "config.json").read_text()
    run(cats, until="ingest")
    assert run(dogs, until="ingest", again=Again(replace=True)).ledger.rows_in == 2


def test_masks_stored_with_loss_are_left_to_ingest_which_names_the_cause(tmp_path: Path) -> None:
    """Advice to map every value that JPEG made would be wrong."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 3:15] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="JPEG", quality=70)
    (tmp_path / "images/a.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "masks/a.jpg").write_bytes(buffer.getvalue())
    assert scan_masks(FolderSource(root=str(tmp_path)), None) is None
