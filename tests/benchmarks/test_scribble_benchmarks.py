"""What the scribble benchmarks count with: Dice of volumes, saliency metrics, both forms of the pair-wise losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import dfr
from benchmarks.common import Options, parse_options
from benchmarks.dfr import STEM, volume_dice
from benchmarks.kernel_cost import half_lsc, half_potts, unfold_lsc, unfold_potts
from benchmarks.scwssod import Saliency
from maskmill.data_contracts import IGNORE


def test_dice_is_that_of_whole_volumes_and_skips_absent_classes() -> None:
    truth, said = np.array([[1, 1, 0, IGNORE]], np.uint8), np.array([[1, 0, 0, 1]], np.uint8)
    empty = np.zeros((1, 4), np.uint8)
    volumes = {"a": [(said, truth), (said, empty)], "b": [(empty, empty)]}
    assert volume_dice(volumes, 1) == pytest.approx(2 * 1 / (2 + 3))
    assert np.isnan(volume_dice(volumes, 2))
    place = STEM.match("patient010_frame01_slice_12")
    assert place is not None
    assert (place["patient"], place["frame"], place["slice"]) == ("patient010", "01", "12")


def test_saliency_metrics_of_a_perfect_and_a_constant_map() -> None:
    truth = np.zeros((16, 16), np.uint8)
    truth[4:12, 4:12], truth[0] = 1, IGNORE
    perfect = Saliency()
    perfect.add((truth == 1).astype(np.float32), truth)
    found = perfect.results("@x")
    assert found["max_f@x"] == pytest.approx(1, abs=1e-3)
    assert found["mae@x"] == 0
    wrong = Saliency()
    wrong.add((truth == 0).astype(np.float32), truth)
    assert wrong.results()["mae"] == pytest.approx((16 * 16 - 16) / 256)


def test_both_forms_agree_in_value_and_gradient() -> None:
    image = 0.2 * torch.randn(2, 3, 9, 11, dtype=torch.float64)
    p = torch.rand(2, 3, 9, 11, dtype=torch.float64).softmax(dim=1).requires_grad_()
    saliency = torch.rand(2, 1, 9, 11, dtype=torch.float64).requires_grad_()
    for slow, fast, x in ((unfold_potts, half_potts, p), (unfold_lsc, half_lsc, saliency)):
        values = slow(x, image), fast(x, image)
        torch.testing.assert_close(*values)
        grads = [torch.autograd.grad(value, x)[0] for value in values]
        torch.testing.assert_close(*grads)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the bytes of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


def test_half_window_sums_never_make_a_tensor_of_the_unfolded_size() -> None:
    """The benchmark measures the process; this is why it needs a fraction of the memory."""
    image = torch.randn(1, 3, 32, 32)
    largest = {}
    for name, form in (("unfold", unfold_potts), ("half", half_potts)):
        p = torch.randn(1, 21, 32, 32).softmax(dim=1).requires_grad_()
        with Largest() as seen:
            torch.autograd.grad(form(p, image), p)
        largest[name] = seen.bytes
    assert largest["half"] < 0.1 * largest["unfold"]


def test_some_arms_and_longer_trainings_are_asked_for_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def options(*more: str) -> Options:
        given = ["--data", str(tmp_path), "--json", str(tmp_path / "a.json"), *more]
        return parse_options("dfr", None, given, has_long=True, arms=tuple(dfr.ARMS))

    assert options().arms == tuple(dfr.ARMS)
    assert options("--arms", "dfr,static").arms == ("static", "dfr")
    assert dfr.SIZES[options("--budget", "long").budget].acdc_steps > 2 * dfr.SIZES["small"].acdc_steps
    with pytest.raises(SystemExit):
        options("--arms", "dfr,other")
    assert "no such arm: other; there is partial_ce, static" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_options("abd", None, ["--data", str(tmp_path), "--json", "a.json", "--budget", "long"])
