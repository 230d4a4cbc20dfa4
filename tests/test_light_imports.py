"""Reading a config and asking for help load no engine: neither torch nor scipy nor OpenCV."""

import subprocess
import sys

HEAVY = ("torch", "scipy", "cv2", "timm", "open_clip", "diffusers", "transformers", "matplotlib", "prefect")
CONFIGS = (
    "maskmill.curation.sds.config",
    "maskmill.curation.select",
    "maskmill.curation.dedup",
    "maskmill.generators.config",
    "maskmill.trainers.registry",
    "maskmill.trainers.engine.config",
    "maskmill.labelers.registry",
    "maskmill.pipelines.run.config",
    "maskmill.pipelines.run.run",
    "maskmill.pipelines.stages.train",
    "maskmill.pipelines.stages.label",
    "maskmill.pipelines.stages.build",
)


def loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that are in sys.modules of a fresh process after `code`."""
    ask = f"{code}\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_configs_need_no_engine() -> None:
    assert loaded_after("\n".join(f"import {module}" for module in CONFIGS), HEAVY) == []


def test_a_run_config_is_read_without_an_engine() -> None:
    read = "from maskmill.pipelines.run.config import load_run_config\nload_run_config('sd15-voc')"
    assert loaded_after(read, HEAVY) == []
