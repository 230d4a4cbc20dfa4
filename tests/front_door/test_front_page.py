"""docs/python.md runs as printed, and shows what its blocks print."""

import re
from pathlib import Path

import maskmill as mm
from benchmarks.pictures.python_page import BLOCK, PAGE, run_blocks, with_outputs


def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    page = PAGE.read_text()
    printed = run_blocks(page, tmp_path)
    blocks = list(BLOCK.finditer(page))
    assert len(blocks) == page.count("```python")
    for block, output in zip(blocks, printed, strict=True):
        assert bool(output) == bool(block.group(2)), block.group(1)
        if output:
            assert len(output.splitlines()) == len(block.group(3).splitlines()), block.group(1)
    for picture in tmp_path.glob("*.png"):
        assert (PAGE.parent / "pictures" / picture.name).is_file()
    assert with_outputs(with_outputs(page, printed), printed) == with_outputs(page, printed)


def test_every_name_of_the_package_that_is_a_call_is_on_the_page() -> None:
    page = PAGE.read_text()
    for name in mm.__all__:
        if name[0].islower():
            assert re.search(rf"\bmm\.{name}\b", page), name
