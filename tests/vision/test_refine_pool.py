"""Dense CRFs in worker processes: same results, no torch, no orphans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from maskmill.vision.crf_options import crf_stamp, laid_over
from maskmill.vision.refine import CrfOptions, crf_workers, dense_crf, pool, refine_many, wrapped_bgr

ROOT = Path(__file__).parents[2]


def items(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = [(20 + i, 30 - i) for i in range(count)]
    return [
        (rng.integers(0, 256, (h, w, 3), dtype=np.uint8), rng.random((3, h, w)).astype(np.float32)) for h, w in sizes
    ]


def test_workers_change_nothing() -> None:
    work, options = items(5), CrfOptions(iterations=4, bilateral_srgb=5)
    alone = refine_many(work, workers=1, options=options)
    pooled = refine_many(work, workers=2, options=options)
    assert [a.tobytes() for a in alone] == [b.tobytes() for b in pooled]
    expected = dense_crf(*work[3], iterations=4, bilateral_srgb=5)
    assert pooled[3].tobytes() == expected.tobytes()


def test_empty_work() -> None:
    assert refine_many([], workers=2) == []


def test_a_wrong_item_raises_what_dense_crf_raises() -> None:
    image, probs = items(1)[0]
    with pytest.raises(ValueError, match="probs must be"):
        refine_many([(image, probs[:, :5]), (image, probs)], workers=2)


def test_importing_the_refiners_leaves_torch_out() -> None:
    code = "import sys, maskmill.vision.refine.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np\n"
        "from maskmill.vision.refine import refine_many\n"
        "if __name__ == '__main__':\n"
        "    item = (np.zeros((8, 8, 3), np.uint8), np.ones((2, 8, 8), np.float32))\n"
        "    refine_many([item] * 4, workers=2)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert children
    deadline = time.monotonic() + 15
    while any(_alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in children)


def _alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has collected."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_image_of_the_release_is_wrapped_before_the_crf() -> None:
    image, probs = items(1)[0]
    (found,) = refine_many([(image, probs)], options=CrfOptions(iterations=2, image="wrapped_bgr"))
    assert np.array_equal(found, dense_crf(wrapped_bgr(image), probs, iterations=2))
    assert not np.array_equal(found, refine_many([(image, probs)], options=CrfOptions(iterations=2))[0])


def test_workers_suit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKMILL_CRF_WORKERS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert crf_workers() == 1  # the model has the cores
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert crf_workers() == 12
    monkeypatch.setenv("MASKMILL_CRF_WORKERS", "3")
    assert crf_workers() == 3


def test_which_crf_runs_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pool._say.cache_clear()
    with caplog.at_level("INFO", "maskmill"):
        for _ in range(2):
            refine_many(items(1), options=CrfOptions(iterations=1))
    assert [r.message for r in caplog.records] == ["dense CRF: mean_field on rgb images, 1 at once"]


def test_options_are_laid_over_the_default_of_their_field() -> None:
    adapter = TypeAdapter(Annotated[CrfOptions, laid_over(CrfOptions(gaussian_sxy=2))])
    assert adapter.validate_python({"backend": "pydensecrf"}) == CrfOptions(gaussian_sxy=2, backend="pydensecrf")
    with pytest.raises(ValidationError):
        adapter.validate_python({"bakend": "pydensecrf"})


def test_auto_backends_count_in_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crf_stamp(CrfOptions()) == ()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert crf_stamp(CrfOptions(backend="auto")) == ("pydensecrf",)
