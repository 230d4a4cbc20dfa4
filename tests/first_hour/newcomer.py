"""Acts the newcomer's first hour and writes down what is seen: docs/tutorial.md is this transcript.

    python -m tests.first_hour.newcomer --write docs/tutorial.md

Every step is a command as a person types it, run in a folder of its own. What differs from run to run (times, rates)
is replaced by dots, and signs of life of a slow machine are left out. The page is written from what ships:
MASKMILL_DATA is left aside there.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.first_hour.folders import write_ccp, write_davis, write_pairs
from tests.first_hour.schedule import ROOT, fresh_shell, lines, run_block

PETS = "maskmill run folder --set source.root=pets"
LONG = (
    "maskmill run planted-faults --set run_dir=runs/long --set source.count=40 --set source.scene.size=96"
    " --set shard_size=4 --set export=[]"
)
STOPPED = 130
LIMIT_S = 300


@dataclass(frozen=True)
class Step:
    """What the newcomer thinks, and what they type; `status` is how the command must end. `{line}` in a command is the
    last line of what the step before said: copied, as it asks for. `stop_at`: Ctrl-C once that is said.
    """

    words: str
    command: str
    status: int = 0
    stop_at: str = ""


STEPS = (
    Step("A folder with `images/` and `masks/`, masks of 0 and 1, as it is.", f"{PETS}", 2),
    Step("The last line, copied, with a word of ours for `object`.", f"{PETS} {{line}}"),
    Step("Nothing is done twice.", "maskmill plan folder --set source.root=pets {same}"),
    Step("A typing error.", "maskmill run folder --set source.root=pets {same} --set selekt.rho=0.5", 2),
    Step(
        "Another threshold, into a folder of its own.",
        "maskmill run folder --set source.root=pets {same} --set run_dir=runs/half --set select.rho=0.5 -q",
    ),
    Step("What differs?", "maskmill diff runs/pets runs/half", 1),
    Step(
        "The threshold again, in the folder that is there: only what depends on it is made.",
        "maskmill run folder --set source.root=pets {same} --set run_dir=runs/half --set select.rho=0.75",
    ),
    Step("Why was this one kept?", "maskmill explain runs/pets 00.jpg"),
    Step("Masks of 0 and 255.", "maskmill run folder --set source.root=bright", 2),
    Step("Its line, copied.", "maskmill ingest folder --set source.root=bright {line}"),
    Step(
        "Street photos with 59 fine labels (the layout of CCP): a preset gathers them into garments.",
        "MASKMILL_DATA=data maskmill run ccp",
    ),
    Step(
        "Clips in folders of their own (the layout of DAVIS), without a preset.",
        "maskmill run folder --set source.root=data/davis",
        2,
    ),
    Step(
        "With the preset, which knows the folders and names the classes by sequence.",
        "MASKMILL_DATA=data maskmill run davis -q",
    ),
    Step("A longer run, and Ctrl-C while it scores.", LONG, STOPPED, stop_at="score:"),
    Step("The same command goes on.", LONG),
    Step("Is every byte as it was written?", "maskmill verify runs/pets"),
    Step("A segmenter on what was kept.", "maskmill train pets.yaml --out runs/segmenter"),
    Step(
        "Its masks for a folder of photos.",
        "maskmill predict runs/segmenter/artifact --images pets/images --out masks",
    ),
)
SCHEDULE = "Every night from now on, and once at once: the block of the README, for a config of our own."

RECIPE = """trainer: supervised
label_space: [dog]
data: {samples: runs/pets/samples, decisions: runs/pets/decisions.parquet}
settings: {steps: 30, batch: 4, precision: fp32, augment: {size: 64, fit: long}, runtime: {progress: false}}
"""
NIGHTLY = """extends: folder
label_space: [dog]
source: {root: pets}
"""


def prepare(home: Path) -> None:
    """What a newcomer has: folders of pairs, and two configs."""
    write_pairs(home / "pets", 1)
    write_pairs(home / "bright", 255)
    write_ccp(home / "data" / "ccp")
    write_davis(home / "data" / "davis")
    (home / "pets.yaml").write_text(RECIPE)
    (home / "nightly.yaml").write_text(NIGHTLY)


def act(home: Path) -> Iterator[tuple[Step, str, str]]:
    """Each step with the command as typed and what was seen.

    Raises:
        AssertionError: a command ended otherwise than it must.
    """
    line = same = ""
    for step in STEPS:
        typed = step.command.format(line=line, same=same)
        status, seen = type_in(typed, home, step.stop_at)
        assert status == step.status, f"{typed}: ended with {status}\n{seen}"
        last = seen.strip().splitlines()[-1].strip() if seen.strip() else ""
        if last.startswith("--set"):
            line = last.replace("[object]", "[dog]")
            same = same or line
        yield step, typed, steady(seen, home)


def type_in(typed: str, home: Path, stop_at: str) -> tuple[int, str]:
    """How a command ends, and what it says: results first, then what came on stderr."""
    *names, command = re.split(r"(?<=\S) (?=maskmill )", typed, maxsplit=1) if "=" in typed.split()[0] else [typed]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"}
    env |= dict(name.split("=", 1) for name in names)
    words = [sys.executable, "-u", "-m", *shlex.split(command)]
    process = subprocess.Popen(
        words, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    said, pressed = "", 0.0
    for line in process.stdout:
        said += line
        if stop_at and not pressed and line.startswith(stop_at):
            process.send_signal(signal.SIGINT)
            said, pressed = f"{said}^C\n", time.monotonic()
    status = process.wait(timeout=LIMIT_S)
    assert not pressed or time.monotonic() - pressed < LIMIT_S / 10, "Ctrl-C ends within seconds, on a busy machine too"
    reader.join(timeout=LIMIT_S)
    return status, said + "".join(errors)


def schedule(home: Path) -> tuple[str, str]:
    """The block as typed, and what maskmill and the last command say."""
    said = run_block(fresh_shell(home), home, "nightly", terminal=False)
    spoken = ("deployed", "work is done by", "now instead", "reports in")
    seen = [line for line in said.splitlines() if line.startswith(spoken) or "already done" in line]
    ended = re.findall(r"Flow\s+run\s+finished\s[^.']*'\w+'\.", said)  # wrapped where a line is full
    port = re.compile(r"(?<=127\.0\.0\.1:)\d+(?=/api)")
    told = [port.sub("4200", line) for line in seen if "Task run" not in line]
    return "\n$ ".join(lines("nightly")), "\n".join([*told, *(" ".join(end.split()) for end in ended[-1:])])


def steady(seen: str, home: Path) -> str:
    """What was seen, without what differs from run to run."""
    text = re.sub(r"^\w+: (\d+ of \d+ |\d+ )?after \d+ s\n", "", seen.replace(str(home), "."), flags=re.MULTILINE)
    text = re.sub(r"\d+(\.\d+)? (s\b|samples/s|min\b)", r"… \2", text)
    return "\n".join(text.rstrip() for text in text.strip().splitlines())


def transcript(home: Path) -> str:
    """The hour as a page."""
    about = "Each command as typed, and what it says (written by `python -m tests.first_hour.newcomer`)."
    parts = [f"# The first hour\n\n{about}\n"]
    for step, typed, seen in act(home):
        parts.append(scene(step.words, typed, seen))
    return "\n".join([*parts, scene(SCHEDULE, *schedule(home))])


def scene(words: str, typed: str, seen: str) -> str:
    return f"{words}\n\n```console\n$ {typed}\n{seen}\n```\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the transcript; without it: stdout")
    wanted = parser.parse_args()
    os.environ.pop("MASKMILL_DATA", None)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        text = transcript(home)
    if wanted.write is None:
        print(text)
    else:
        wanted.write.write_text(text)


if __name__ == "__main__":
    main()
