"""Where the small models that ship with the project lie, in a checkout and in an installed copy alike.

>>> starter_path("clip").name
'clip'
"""

from __future__ import annotations

from pathlib import Path

STARTER_FOLDER = "starter"


def starter_path(name: str) -> Path:
    """The folder of the starter model `name` (for example `clip`).

    The folder `starter/` lies beside this room, in a checkout and in an installed copy alike.

    Raises:
        FileNotFoundError: if there is no such folder; the message lists those that exist.
    """
    root = Path(__file__).resolve().parents[1] / STARTER_FOLDER
    found = root / name
    if not name or Path(name).name != name or not found.is_dir():
        known = sorted(card.parent.name for card in root.glob("*/README.md"))
        raise FileNotFoundError(f"no starter model {name!r} in {root}; there is: {', '.join(known) or 'none'}")
    return found
