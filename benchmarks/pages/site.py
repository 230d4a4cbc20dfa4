"""The hook of mkdocs.yml: pages of the repository that lie outside docs/, and links to files that are no page.

README, CONTRIBUTING, SECURITY, CHANGELOG and the cards of the starter models become pages; links to them, and theirs,
lead to the right place. A link to another file of the repository (source, config, licence) becomes its path in type.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # file of the repository: page of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "starter/clip/README.md": "starter/clip.md",
    "starter/generator/README.md": "starter/generator.md",
    "starter/promptable/README.md": "starter/promptable.md",
    "starter/drawn/README.md": "starter/drawn.md",
}
LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend the links of a page; blocks of code stay as they are."""
    homes = {target: source for source, target in PAGES.items()}
    here = page.file.src_uri
    source = homes.get(here, f"docs/{here}")
    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else mend(part, source, here) for part in parts)


def mend(markdown: str, source: str, here: str) -> str:
    """Links of a file at `source` in the repository as a page at `here` in the site has them."""

    def changed(found: re.Match[str]) -> str:
        picture, words, target, part = found.group(1), found.group(2), found.group(3), found.group(4) or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return found.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is not None:
            return f"{picture}[{words}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{part})"
        return f"{words} (`{path}`)"

    return LINK.sub(changed, markdown)
