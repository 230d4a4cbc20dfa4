"""Where the small models that ship with the project lie, in a checkout and in an installed copy alike.

>>> starter_path("clip").name
'clip'
"""

from __future__ import annotations

from pathlib import Path

import data_contracts

STARTER_FOLDER = "starter"


def starter_path(name: str) -> Path:
    """The folder of the starter model `name` (for example `clip`).

    The top-level folder `starter/` lies beside the packages both in a checkout and in site-packages.

    Raises:
        FileNotFoundError: if there is no such folder; the message lists those that exist.
    """
    root = Path(data_contracts.__file__).resolve().parent.parent / STARTER_FOLDER
    found = root / name
    if not name or Path(name).name != name or not found.is_dir():
        known = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
        raise FileNotFoundError(f"no starter model {name!r} in {root}; there is: {', '.join(known) or 'none'}")
    return found
