"""Rebuild the shipped drawings (`starter/drawn/*.png`, `index.json`) from the emoji packages. A developer's tool.

    npm pack @iconify-json/noto @iconify-json/twemoji @iconify-json/fluent-emoji-flat @iconify-json/openmoji pip
    install resvg-py python -m maskmill.starter.drawn.build --packages FOLDER_WITH_THE_TGZ_FILES

`catalogue.yaml` says which emoji show which class and what is cut away from them. Each drawing is rasterised so that
its visible part fills `SIZE` pixels on its longer side, and packed into one RGBA atlas per style.
"""

import argparse
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from maskmill.starter.drawn.drawings import DRAWN_DIR

SIZE = 128
ATLAS_COLUMNS = 12
MIN_ALPHA = 8
CATALOGUE = DRAWN_DIR / "catalogue.yaml"

Rgba = NDArray[np.uint8]


def read_package(folder: Path, package: str, version: str) -> dict[str, Any]:
    """The icon set (icons.json) and the table from icon name to code point of one npm tarball."""
    path = folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run: npm pack {package}@{version}")
    with tarfile.open(path) as tar:
        members = {name: tar.extractfile(f"package/{name}.json") for name in ("icons", "chars")}
        loaded: dict[str, Any] = {name: json.load(file) for name, file in members.items() if file is not None}
    codepoints = {name: code for code, name in sorted(loaded["chars"].items(), reverse=True)}
    return {"icons": loaded["icons"], "codepoints": codepoints}


def strip_tags(body: str, remove: list[int]) -> str:
    """Take the opening tags with these indices out of an icon's body; only self-closing shapes may go."""
    found = list(re.finditer(r"<(?!/)[^>]*>", body))
    for index in sorted(remove, reverse=True):
        tag = found[index]
        if not tag.group().endswith("/>"):
            raise ValueError(f"tag {index} is {tag.group()[:40]!r}: only a self-closing shape can be removed")
        body = body[: tag.start()] + body[tag.end() :]
    return body


def rasterise(body: str, box: tuple[float, float, float, float], width: int, height: int) -> Rgba:
    """Draw an icon's body: uint8 (height, width, 4), straight alpha; `box` = view box x, y, w, h in icon units."""
    import resvg_py

    view = " ".join(f"{value:.4f}" for value in box)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view}"'
    svg = f'{head} width="{width}" height="{height}" preserveAspectRatio="none">{body}</svg>'
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def draw_tight(body: str, em: tuple[float, float], clip: list[float]) -> Rgba:
    """Draw what an icon shows inside `clip` (fractions x0, y0, x1, y1), tightly cropped, longer side SIZE."""
    x, y, width, height = clip[0] * em[0], clip[1] * em[1], (clip[2] - clip[0]) * em[0], (clip[3] - clip[1]) * em[1]
    probe = rasterise(body, (x, y, width, height), 512, 512)[..., 3] >= MIN_ALPHA
    rows, columns = np.flatnonzero(probe.any(1)), np.flatnonzero(probe.any(0))
    x, width = x + columns[0] * width / 512, (columns[-1] + 1 - columns[0]) * width / 512
    y, height = y + rows[0] * height / 512, (rows[-1] + 1 - rows[0]) * height / 512
    scale = SIZE / max(width, height)
    return rasterise(body, (x, y, width, height), max(1, round(width * scale)), max(1, round(height * scale)))


def style_entries(style: str, catalogue: dict[str, Any], icons: dict[str, Any]) -> list[tuple[str | None, str]]:
    """(class or None for a distractor, icon name) pairs that the style can draw, in catalogue order."""
    only = catalogue["only"].get(style, {})
    wanted: list[tuple[str | None, str]] = []
    for class_name, names in catalogue["classes"].items():
        wanted += [(class_name, name) for name in names + only.get(class_name, [])]
    wanted += [(None, name) for name in catalogue["distractors"]]
    left_out = set(catalogue["leave_out"].get(style, []))
    known = set(icons["icons"]) | set(icons.get("aliases", {}))
    return [(class_name, name) for class_name, name in wanted if name in known and name not in left_out]


def build_style(style: str, catalogue: dict[str, Any], packages: Path) -> tuple[Rgba, list[dict[str, Any]]]:
    """Atlas (uint8 RGBA) and index rows of one style."""
    source = catalogue["packages"][style]
    loaded = read_package(packages, source["package"], source["version"])
    icons = loaded["icons"]
    entries = style_entries(style, catalogue, icons)
    atlas = np.zeros((-(-len(entries) // ATLAS_COLUMNS) * SIZE, ATLAS_COLUMNS * SIZE, 4), np.uint8)
    rows = []
    for position, (class_name, name) in enumerate(entries):
        icon = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]
        em = (icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16)))
        body = strip_tags(icon["body"], catalogue["remove"].get(style, {}).get(name, []))
        drawing = draw_tight(body, em, catalogue["clip"].get(style, {}).get(name, [0, 0, 1, 1]))
        top, left = position // ATLAS_COLUMNS * SIZE, position % ATLAS_COLUMNS * SIZE
        height, width = drawing.shape[:2]
        atlas[top : top + height, left : left + width] = drawing
        row = {"style": style, "class_name": class_name, "name": name, "codepoint": loaded["codepoints"].get(name)}
        rows.append(row | {"rect": [left, top, width, height], "licence": source["licence"]})
    return atlas, rows


def build(packages: Path, out: Path = DRAWN_DIR, catalogue_file: Path = CATALOGUE) -> None:
    """Write one atlas per style of the catalogue and `index.json` to `out`."""
    catalogue = yaml.safe_load(catalogue_file.read_text())
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for style in catalogue["packages"]:
        atlas, style_rows = build_style(style, catalogue, packages)
        Image.fromarray(atlas).save(out / f"{style}.png", optimize=True)
        rows += style_rows
    lines = ",\n".join(json.dumps(row) for row in rows)
    (out / "index.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rebuild the shipped drawings from the emoji packages.")
    parser.add_argument(
        "--packages", type=Path, required=True, help="folder with the npm tarballs that the catalogue names"
    )
    parser.add_argument("--out", type=Path, default=DRAWN_DIR)
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="which icons show which class")
    arguments = parser.parse_args()
    build(arguments.packages, arguments.out, arguments.catalogue)
