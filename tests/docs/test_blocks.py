"""Every fenced block of the pages can be used as it stands: quick pages among the quick tests, the others among the
slow ones; all of them by `make blocks`.
"""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from maskmill.pipelines.cli.main import app
from tests.docs.blocks import ELSEWHERE, ROOT, Block, blocks, is_slow, name_of, pages, surroundings, to_run, use

RUN = [page for page in pages() if name_of(page) not in ELSEWHERE and to_run(page)]
WITH_BASH = [page for page in pages() if any(block.kind == "bash" for block in blocks(page))]
PLACEHOLDERS = re.compile(r"\b(DIR|CONFIG|FILE|NAME|RUN|URL)\b")
"""Words that a reader must replace: no block that is run has one."""


@pytest.mark.parametrize("page", WITH_BASH, ids=name_of)
def test_commands_of_maskmill_are_commands_with_these_options(page: Path) -> None:
    """Those that are not run, too: the command line is read, and nothing done."""
    for block in blocks(page):
        for words in block.commands if block.kind == "bash" else []:
            if words[0] == "maskmill":
                parse(words[1:], f"{name_of(page)}, line {block.line}")


def parse(words: list[str], where: str) -> None:
    """Read a command line to its end. (Some releases of typer hold a click of their own: no class of it is named.)"""
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="maskmill")
    words = words[:-1] if words and words[-1] == "&" else words
    try:
        while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
            _, command, words = command.resolve_command(context, words)
            context = command.context_class(command, info_name=command.name, parent=context)
        command.parse_args(context, list(words))
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error
            pytest.fail(f"{where}: {error.format_message()}")
        if type(error).__name__ != "Exit":  # --help and --version
            raise


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ruin folder", "No such command 'ruin'"),
        ("run folder --sat a=b", "No such option: --sat"),
        ("label clipcam", "No such command 'clipcam'"),
        ("label a2gnn --images a", "Missing option"),
        ("run --help", ""),
    ],
)
def test_a_call_that_is_none_is_seen(line: str, said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=said) if said else nullcontext():
        parse(line.split(), "here")


def test_a_block_that_is_run_has_nothing_to_fill_in() -> None:
    for page in pages():
        for block in to_run(page):
            if block.kind == "bash":
                assert not PLACEHOLDERS.search(re.sub(r"#.*", "", block.text)), f"{name_of(page)}, line {block.line}"


def test_blocks_that_are_not_run_say_why() -> None:
    for page in pages():
        assert all(block.not_run != "" for block in blocks(page)), name_of(page)
    for page, test in ELSEWHERE.items():
        assert (ROOT / page).is_file()
        assert (ROOT / test).is_file()


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name_of(p), marks=[pytest.mark.slow] if is_slow(p) else []) for p in RUN]
)
def test_pages_run_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = surroundings(tmp_path / ".home")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    for block in to_run(page):
        if block.plain:
            run_here(block, name_of(page))
        else:
            use(block, tmp_path, env)


def run_here(block: Block, page: str) -> None:
    """The commands of a block in this process: a shell would import torch anew for each."""
    for words in block.commands:
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == block.status, (
            f"{page}, line {block.line}: {words}: ended with {done.exit_code}\n{done.output}"
        )
