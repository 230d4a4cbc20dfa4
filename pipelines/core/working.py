"""Where files lie that must be on a local disk while work goes on, when its results go to an object store."""

import os
from pathlib import Path

from maskmill.data_contracts import content_id


def working_folder(folder: str) -> str:
    """A local folder as it is; for a URL one under the user's cache, always the same, so that a killed run goes on."""
    if "://" not in folder:
        return folder
    if folder.startswith("file://"):
        return folder.removeprefix("file://")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return os.path.join(cache, "maskmill", "work", content_id(folder.rstrip("/")))
