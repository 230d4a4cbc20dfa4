"""The documentation as a site: it builds without a warning, holds every page, and loads nothing from elsewhere."""

import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

from mkdocs.commands.build import build
from mkdocs.config import load_config

from benchmarks.pages.site import PAGES, mend

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    warned: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = warned.append  # type: ignore[method-assign]
    log = logging.getLogger("mkdocs")
    log.addHandler(handler)
    try:
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(place))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    finally:
        log.removeHandler(handler)
    assert [record.getMessage() for record in warned] == []
    return place


def test_every_page_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    pages += [Path(target).with_suffix("") for target in PAGES.values()]
    for page in pages:
        folder = page.parent if page.name == "index" else page
        assert (site / folder / "index.html").is_file(), page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert LOADED.findall(page.read_text(encoding="utf-8")) == [], page
    assert "fonts.googleapis" not in "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))


def test_links_lead_from_the_repository_to_the_site() -> None:
    assert mend("[w](docs/weclip.md#options)", "README.md", "index.md") == "[w](weclip.md#options)"
    assert mend("![r](docs/pictures/report.png)", "README.md", "index.md") == "![r](pictures/report.png)"
    assert mend("[c](../CONTRIBUTING.md)", "docs/architecture.md", "architecture.md") == "[c](contributing.md)"
    assert mend("[d](../drawn/README.md)", "starter/clip/README.md", "starter/clip.md") == "[d](drawn.md)"
    assert mend("[m](../weclip.md)", "docs/recipes/tags.md", "recipes/tags.md") == "[m](../weclip.md)"
    assert mend("[l](LICENSE)", "README.md", "index.md") == "l (`LICENSE`)"
    assert mend("[h](https://a.b/c)", "README.md", "index.md") == "[h](https://a.b/c)"
