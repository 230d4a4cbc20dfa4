"""Write the pages that come from the code into docs/."""

from pathlib import Path

from benchmarks.pages import pages

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    for path, text in pages().items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
