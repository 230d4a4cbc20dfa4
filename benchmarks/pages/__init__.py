"""Pages of the documentation that are written from the code: `python -m benchmarks.pages` writes them anew.

`configs` holds every key of every config, `contracts` every column of every shard. A test says when one is out of date.
"""

from benchmarks.pages.configs import config_pages
from benchmarks.pages.contracts import contract_page

HEAD = "<!-- Written from the code by `python -m benchmarks.pages`. -->\n"


def pages() -> dict[str, str]:
    """Text of every written page by its path under docs/."""
    written = {**config_pages(), "reference/contracts.md": contract_page()}
    return {path: f"{HEAD}\n{text.strip()}\n" for path, text in written.items()}
