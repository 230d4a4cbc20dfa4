"""In a checkout the rooms can also be reached by their folder's name (`import pipelines`). Give those imports the same
modules as `maskmill.pipelines`: two copies of one class are never equal.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOMS = ("data_contracts", "vision", "generators", "curation", "trainers", "labelers", "pipelines", "starter")
HERE = Path(__file__).resolve().parent


class _SameModule:
    """Finds and loads `ROOM.x` as `maskmill.ROOM.x`, where ROOM is this checkout's and not somebody else's folder."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        room = name.partition(".")[0]
        if room not in ROOMS or path is None or not any(Path(p).resolve() == HERE.parent / room for p in _roots(room)):
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__package__}.{spec.name}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def _roots(room: str) -> Sequence[str]:
    found = sys.modules.get(room)
    return list(getattr(found, "__path__", ()))


if (HERE / "data_contracts").is_symlink():
    sys.meta_path.insert(0, _SameModule())
