"""The command line: errors in words on stderr, exit statuses, JSON, and what is said without a terminal."""

import io
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from maskmill.pipelines.cli import faults, interrupt, progress
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.main import COMMANDS, app
from maskmill.pipelines.core.beat import beating
from tests.test_light_imports import HEAVY, loaded_after

DATA = Path(__file__).resolve().parent.parent / "data"
TINY = {"score.model": str(DATA / "tiny_clip_timm"), "score.image_side": 64, "score.refine": "none"}


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def drawn(run_dir: Path, **more: object) -> list[str]:
    sets = {"run_dir": run_dir, "source.count": 4, "source.scene.size": 64, **TINY, **more}
    return ["planted-faults", *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))]


def test_help_and_version_load_no_engine_and_no_contract() -> None:
    heavy = (*HEAVY, "pyarrow", "polars", "numpy", "pydantic")
    assert loaded_after("import maskmill.pipelines.cli.main", heavy) == []
    shown = call("-h")
    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)
    assert call("--version").output.startswith("maskmill ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    shown = call(name, "-h")
    assert shown.exit_code == 0, shown.output
    assert "--quiet" in shown.output or "COMMAND" in shown.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "foldr"), "did you mean 'folder'?"),
        (("train", "adb", "--out", "x"), "did you mean 'abd'?; train presets: abd"),
        (("train", "supervisd", "--out", "x"), "train presets"),
        (("train", "weclip", "--out", "x", "--set", "settings.stps=5"), "settings.stps: there is no such key; did you"),
        (("train", "weclip", "--out", "x", "--set", "settings.stps=5"), "mean settings.steps"),
        (("train", "weclip", "--out", "x", "--set", "settings.augment.sise=5"), "did you mean settings.augment.size"),
        (("train", "weclip", "--out", "x", "--set", "settings.steps=few"), "settings.steps: Input should be"),
        (("train", "abd", "--out", "x", "--set", "trainer=adb"), "did you mean 'abd'?"),
        (("label", "shards", "clip_cam", "--out", "x", "--set", "settings.refin=crf"), "mean settings.refine"),
        (("label", "shards", "clip_cam", "--out", "x", "--set", "labeler=clipcam"), "did you mean 'clip_cam'?"),
        (("build", "demo", "--out", "x", "--set", "train.settings.stps=5"), "mean settings.steps"),
        (("run", "abd"), "maskmill train abd"),
        (("run", "train/abd"), "it is one for `maskmill train`"),
        (("plan", "planted-faults", "--set", "selekt.rho=1"), "did you mean select.rho?"),
        (("plan", "planted-faults", "--set", "pcs_tau=1"), "did you mean select.pcs_tau?"),
        (("plan", "planted-faults", "--set", "source.cuont=1"), "did you mean source.count"),
        (("plan", "planted-faults", "--set", "source.kind=drawm"), "did you mean 'drawn'?"),
        (("plan", "planted-faults", "--set", "label_space=vox"), "did you mean 'voc'?"),
        (("plan", "planted-faults", "--set", "label_space=heron"), "a class of your own is a list of names: [heron]"),
        (("plan", "planted-faults", "--set", "label_space=[dog, dog]"), "must be unique, found 'dog' again"),
        (("plan", "planted-faults", "--set", "select.near_duplicates=bst"), "did you mean 'best'? (found 'bst')"),
        (("plan", "planted-faults", "--set", "shard_size.x=5"), "shard_size is 40"),
        (("plan", "planted-faults", "--set", "seed=["), "not YAML"),
        (("plan", "planted-faults", "--set", f"seed={'9' * 5000}"), "seed"),
        (("plan", "planted-faults", "--set", f"shard_size={'9' * 400}"), "shard_size"),
        (("plan", "planted-faults", "--set", f"name={'[' * 3000}"), "name"),
        (("plan", "planted-faults", "--set", "rho"), "KEY=VALUE"),
        (("label", "read-tags", "--images", "x", "--tags", "no.json", "--out", "y"), "no.json: no such file or folder"),
        (
            ("plan", "folder", "--set", "label_space=voc", "--set", "source.root=$NO_SUCH_NAME/x"),
            "$NO_SUCH_NAME is not",
        ),
    ],
)
def test_errors_that_a_user_can_mend_are_words_on_stderr(words: tuple[str, ...], said: str) -> None:
    done = call(*words)
    assert done.exit_code == Exit.FAULT
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert "Value error" not in done.output, "the words of a library"
    assert done.stdout == ""


def test_broken_yaml_is_placed(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\nselect: {rho: 1\n")
    done = call("run", str(tmp_path / "run.yaml"))
    assert done.exit_code == 2
    assert "run.yaml: line 3, column 1" in done.stderr


def test_a_name_that_is_not_set_is_told_with_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE_OF_DATA", "/somewhere")
    done = call("plan", "folder", "--set", "source.root=$PLACE_OF_DATE/x", "--set", "label_space=voc")
    assert "did you mean $PLACE_OF_DATA?" in done.stderr
    assert "source.root" in done.stderr


def test_json_is_all_that_stdout_holds(tmp_path: Path) -> None:
    done = call("select", *drawn(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["samples"] == 4
    assert [step["step"] for step in found["steps"]] == ["ingest", "score", "dedup", "select"]
    assert "Ledger" in done.stderr
    planned = json.loads(call("plan", *drawn(tmp_path), "--json").stdout)
    assert [line["to_run"] for line in planned["steps"]][:4] == [0, 0, 0, 0]
    wrong = call("plan", "foldr", "--json")
    assert json.loads(wrong.stdout)["exit"] == wrong.exit_code == 2
    quiet = call("select", *drawn(tmp_path), "-q")
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    assert call("-q", "select", *drawn(tmp_path)).stdout == ""
    assert "Ledger" in call("select", *drawn(tmp_path)).output, "quiet lasts for one call"


def test_without_a_terminal_each_step_is_a_line(tmp_path: Path) -> None:
    lines = call("ingest", *drawn(tmp_path)).stdout.splitlines()
    assert any(line.startswith("ingest: 1 of 1 done") for line in lines)
    again = call("ingest", *drawn(tmp_path)).stdout
    assert "1 of them already" in again


def test_what_is_logged_is_said_once(tmp_path: Path) -> None:
    above = logging.StreamHandler(io.StringIO())
    logging.root.addHandler(above)
    try:
        said = call("ingest", *drawn(tmp_path)).output
    finally:
        logging.root.removeHandler(above)
    assert "ingest: 1 of 1 done" in said
    assert above.stream.getvalue() == ""


def test_long_steps_give_a_sign_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress._Lines()
    lines("score", 0, 12, "started")
    lines("score", 5, 12, "written")
    lines.beat()
    assert "score: 5 of 12 after" in capsys.readouterr().out
    uncounted = progress._Lines()
    uncounted("train", 0, None, "started")
    uncounted.beat()
    uncounted.end()
    said = capsys.readouterr().out
    assert ("train: after" in said, "train: done (" in said) == (True, True)
    with beating(lines.beat, 0.01):
        time.sleep(0.2)
    assert capsys.readouterr().out.count("5 of 12") > 1


def test_an_offline_hub_is_told_with_the_ways_out() -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    for error in (OfflineModeIsEnabled("offline"), LocalEntryNotFoundError("x"), ConnectionError("no route")):
        words, status = faults.words_for(error)
        assert status == Exit.FAULT
        assert "--set score.pretrained=FILE" in words


def test_a_store_that_is_down_and_want_of_memory_are_told_as_what_they_are() -> None:
    down = OSError(5, "the store at http://127.0.0.1:1: no answer", "s3://bucket/run/.lock")
    down.__cause__ = ConnectionResetError("reset by peer")
    words, status = faults.words_for(down)
    assert (status, "model" in words) == (Exit.FAULT, False)
    assert "s3://bucket/run/.lock" in words
    words, status = faults.words_for(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    assert (status, "out of memory" in words) == (Exit.FAULT, True)


def test_an_object_store_that_refuses_is_no_bug_of_ours() -> None:
    from botocore.exceptions import NoCredentialsError

    words, status = faults.words_for(NoCredentialsError())
    assert (status, "credentials" in words) == (Exit.FAULT, True)


def test_a_bug_of_ours_is_one_line_unless_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("that is ours")

    monkeypatch.setattr("maskmill.pipelines.cli.plan.plan_run", broken)
    short = call("plan", "planted-faults")
    assert short.exit_code == Exit.BUG
    assert "TypeError at test_cli.py" in short.stderr
    assert "Traceback" not in short.output
    assert "Traceback" in call("plan", "planted-faults", "-v").stderr


def stopped(code: str, presses: int) -> tuple[int, float, str]:
    """Exit status, seconds after the first Ctrl-C, and stderr of a command that is stopped while `code` runs."""
    script = (
        "import threading, time, typer\nfrom maskmill.pipelines.cli.lazy import ReadableGroup\n"
        "from maskmill.pipelines.cli.interrupt import working\n"
        "app = typer.Typer(cls=ReadableGroup)\n@app.callback()\ndef main() -> None: ...\n"
        "@app.command()\ndef hang() -> None:\n"
        f"    working('score', 3, 12); print('in work', flush=True); {code}\napp()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "hang"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, said = process.communicate(timeout=300)
    return process.returncode, time.monotonic() - started, said


ENDED = (Exit.STOPPED, -signal.SIGINT)  # by itself, or by the signal once Python is gone: a shell says 130 of both
HANGS = "t = threading.Thread(target=time.sleep, args=(60,)); t.start(); t.join()"


def test_ctrl_c_says_what_it_finishes_and_ends_though_a_thread_hangs() -> None:
    status, seconds, said = stopped(HANGS, presses=1)
    assert status == Exit.STOPPED
    assert seconds < 20, "two seconds, and as much again as a busy machine takes"
    assert "finishing 4 of 12 of score" in said
    assert "the same command goes on" in said


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupt.GRACE_S < 2
    status, _, _ = stopped(HANGS, presses=2)
    assert status in ENDED


def test_ctrl_c_ends_it_though_the_words_come_late() -> None:
    slow = f"from maskmill.pipelines.cli import interrupt; interrupt.stop_message = lambda: time.sleep(50); {HANGS}"
    assert stopped(slow, presses=1)[0] in ENDED
    assert stopped(slow, presses=2)[0] in ENDED
