"""Acts the newcomer's first hour and writes down what is seen: docs/tutorial.md is this transcript.

    python -m tests.first_hour.newcomer --write docs/tutorial.md

Every step is a command as a person types it, run in a folder of its own; what differs from run to run (times, rates) is
replaced by dots.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.data_contracts import decode_image, load_label_space
from maskmill.pipelines.ingest.drawn import DrawnSource

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS, SIDE = 12, 128
PETS = "maskmill run folder --set source.root=pets"


@dataclass(frozen=True)
class Step:
    """What the newcomer thinks, and what they type; `status` is how the command must end. `{line}` in a command is the
    last line of what the step before said: copied, as it asks for.
    """

    words: str
    command: str
    status: int = 0


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
    Step("Why was this one kept?", "maskmill explain runs/pets 00.png"),
    Step("Masks of 0 and 255.", "maskmill run folder --set source.root=bright", 2),
    Step("Its line, copied.", "maskmill ingest folder --set source.root=bright {line}"),
    Step("Is every byte as it was written?", "maskmill verify runs/pets"),
    Step("A segmenter on what was kept.", "maskmill train pets.yaml --out runs/segmenter"),
    Step(
        "Its masks for a folder of photos.",
        "maskmill predict runs/segmenter/{artifact} --images pets/images --out masks",
    ),
)


def write_pairs(folder: Path, value: int) -> None:
    """Pairs of drawn animals; what is drawn has `value` in the masks."""
    space = load_label_space("voc")
    scene = {"size": SIDE, "max_objects": 1, "classes": ["dog"], "ignore_band": 0}
    source = DrawnSource.model_validate({"count": PAIRS, "faulty": 0, "scene": scene})
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(source.entries()):
        raw = source.load(entry, space)
        assert raw.drawn is not None
        Image.fromarray(decode_image(raw.image)).save(folder / "images" / f"{number:02d}.png")
        mask = np.where((raw.drawn > 0) & (raw.drawn < 255), value, 0).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{number:02d}.png")


RECIPE = """trainer: supervised
label_space: [dog]
data: {samples: runs/pets/samples, decisions: runs/pets/decisions.parquet}
settings: {steps: 30, batch: 4, precision: fp32, augment: {size: 64, fit: long}, runtime: {progress: false}}
"""


def prepare(home: Path) -> None:
    """What a newcomer has: two folders of pairs and a training config."""
    write_pairs(home / "pets", 1)
    write_pairs(home / "bright", 255)
    (home / "pets.yaml").write_text(RECIPE)


def act(home: Path) -> Iterator[tuple[Step, str, str]]:
    """Each step with the command as typed and what was seen.

    Raises:
        AssertionError: a command ended otherwise than it must.
    """
    line = same = ""
    for step in STEPS:
        artifact = next((p.name for p in (home / "runs" / "segmenter").glob("art*fact")), "artifact")
        typed = step.command.format(line=line, same=same, artifact=artifact)
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(typed)],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        seen = done.stdout + done.stderr
        assert done.returncode == step.status, f"{typed}: ended with {done.returncode}\n{seen}"
        last = seen.strip().splitlines()[-1].strip() if seen.strip() else ""
        if last.startswith("--set"):
            line = last.replace("[object]", "[dog]")
            same = same or line
        yield step, typed, steady(seen, home)


def steady(seen: str, home: Path) -> str:
    """What was seen, without what differs from run to run."""
    text = seen.replace(str(home), ".")
    text = re.sub(r"\d+(\.\d+)? (s\b|samples/s|min\b)", r"… \2", text)
    return "\n".join(text.rstrip() for text in text.strip().splitlines())


def transcript(home: Path) -> str:
    """The hour as a page."""
    about = "Each command as typed, and what it says (written by `python -m tests.first_hour.newcomer`)."
    parts = [f"# The first hour\n\n{about}\n"]
    for step, typed, seen in act(home):
        parts.append(f"{step.words}\n\n```console\n$ {typed}\n{seen}\n```\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the transcript; without it: stdout")
    wanted = parser.parse_args()
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
