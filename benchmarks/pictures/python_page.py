"""docs/python.md run from top to bottom: what its blocks print, and the pictures that they save.

python -m benchmarks.pictures.python_page    # writes the page's outputs and docs/pictures/python_*.png anew
"""

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:(\n```text\n)(.*?)```\n)?", re.DOTALL)


def run_blocks(page: str, folder: Path) -> list[str]:
    """What each python block of a page prints, run in order in one namespace with `folder` as working directory."""
    names: dict[str, object] = {"__name__": "page"}
    printed = []
    with contextlib.chdir(folder):
        for number, block in enumerate(BLOCK.finditer(page)):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.group(1), f"{PAGE.name}, block {number}", "exec"), names)
            printed.append(out.getvalue())
    return printed


def with_outputs(page: str, printed: list[str]) -> str:
    """The page with `printed` in its text blocks, one a python block that is followed by one."""
    outputs = iter(printed)

    def fill(block: re.Match[str]) -> str:
        output = next(outputs)
        shown = f"{block.group(2)}{output.rstrip()}\n```\n" if block.group(2) else ""
        return f"```python\n{block.group(1)}```\n{shown}"

    return BLOCK.sub(fill, page)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        printed = run_blocks(page, Path(folder))
        for picture in Path(folder).glob("*.png"):
            # 128 colours keep the file small; the eye sees no difference at this size.
            Image.open(picture).convert("RGB").quantize(128).save(
                PAGE.parent / "pictures" / picture.name, optimize=True
            )
    PAGE.write_text(with_outputs(page, printed), encoding="utf-8")


if __name__ == "__main__":
    os.environ["POLARS_FMT_STR_LEN"] = "40"
    main()
