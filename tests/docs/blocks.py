"""The fenced blocks of a page, as a reader would use them: `bash` and `python` are run in order in one folder, `yaml
title="NAME"` is written to NAME.

Above a fence may stand, as an HTML comment: `not run: WHY`, or `ends with N` (the exit status that it must have). A
page that begins with the comment `blocks: slow` is run among the slow tests.

    python -m tests.docs.blocks [PAGE …]     # in real shells, a folder a page; all pages without names
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"(?:^[ \t]*<!-- (?P<mark>(?:not run|ends with)[^\n]*?) -->[ \t]*\n)?"
    r"^```(?P<kind>bash|python|yaml)(?: title=\"(?P<title>[^\"]+)\")?[ \t]*\n(?P<text>.*?)^```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
SLOW = "<!-- blocks: slow -->"
ELSEWHERE = {  # pages with a test of their own, which runs them
    "docs/python.md": "tests/front_door/test_front_page.py",
    "docs/tutorial.md": "tests/first_hour/test_first_hour.py",
}


@dataclass(frozen=True)
class Block:
    """One fenced block, and how it is to be used."""

    kind: str
    text: str
    line: int
    title: str | None = None
    not_run: str | None = None
    status: int = 0

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block; comments are left out."""
        joined = self.text.replace("\\\n", " ")
        split = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [words for words in split if words]

    @property
    def plain(self) -> bool:
        """Whether a bash block is commands of maskmill alone, with nothing for a shell to do."""
        return self.kind == "bash" and all(words[0] == "maskmill" and words[-1] != "&" for words in self.commands)


def pages() -> list[Path]:
    """Every page that people read, README first."""
    roots = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))
    return [*roots, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "starter").glob("*/README.md"))]


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def is_slow(page: Path) -> bool:
    """Whether a page is run among the slow tests."""
    return page.read_text(encoding="utf-8").startswith(SLOW)


def blocks(page: Path) -> list[Block]:
    """Blocks of a page that are run, written, or marked as not run, in order. YAML without a title is no block."""
    text = page.read_text(encoding="utf-8")
    return list(_blocks(text))


def _blocks(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        if found["kind"] == "yaml" and not found["title"]:
            continue
        mark = found["mark"] or ""
        why = mark.removeprefix("not run:").strip() if mark.startswith("not run") else None
        status = int(mark.removeprefix("ends with")) if mark.startswith("ends with") else 0
        line = text.count("\n", 0, found.start("text"))
        yield Block(found["kind"], found["text"], line, found["title"], why, status)


def to_run(page: Path) -> list[Block]:
    """What of a page is used."""
    return [block for block in blocks(page) if block.not_run is None]


def surroundings(home: Path) -> dict[str, str]:
    """An environment in which nothing of the reader's own is touched."""
    places = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "XDG_CONFIG_HOME": home / ".config"}
    own = {"PREFECT_HOME": home / ".prefect", "HF_HOME": home / ".hf", "MPLCONFIGDIR": home / ".mpl"}
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    quiet = {"HF_HUB_OFFLINE": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "NO_COLOR": "1"}
    given = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MASKMILL_DATA")}
    return {
        **given,
        **{k: str(v) for k, v in {**places, **own}.items()},
        **quiet,
        "PATH": paths,
        "PYTHONPATH": str(ROOT),
    }


def use(block: Block, folder: Path, env: dict[str, str]) -> str:
    """Use a block in real processes; returns what was seen.

    Raises:
        AssertionError: it did not end as it must.
    """
    if block.title is not None:
        (folder / block.title).write_text(block.text, encoding="utf-8")
        return ""
    command = ["bash", "-e", "-c", block.text] if block.kind == "bash" else [sys.executable, "-c", block.text]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    seen = done.stdout + done.stderr
    assert done.returncode == block.status, f"line {block.line}: ended with {done.returncode}\n{block.text}\n{seen}"
    return seen


def run_page(page: Path, folder: Path) -> str:
    """All blocks of a page in order; returns what it cost."""
    began, before, env = time.monotonic(), os.times(), surroundings(folder / ".home")
    for block in to_run(page):
        use(block, folder, env)
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return f"{time.monotonic() - began:.0f} s, {work:.0f} s of a core"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run; default: all")
    failed = 0
    for page in parser.parse_args().pages or pages():
        page = page.resolve()
        if name_of(page) in ELSEWHERE or not to_run(page):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"{name_of(page)}: {run_page(page, Path(folder))}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name_of(page)}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
