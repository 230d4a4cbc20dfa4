"""BAM's base learner and merge against its release and PI-CLIP's: head, Gram distances, scores, losses."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.trainers.few_shot.base import Ensemble, PyramidHead, gram_distance
from maskmill.trainers.few_shot.base.ensemble import GramShots
from maskmill.trainers.few_shot.scl import cross_entropy
from tests.golden import fill, golden, uniform

torch.set_num_threads(1)

NUMBERS: dict[str, Any] = golden("pi_clip", "ensemble")
LOW, HIGH, GRID, BASE = 6, 16, 12, 5


def by_formula(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(uniform(name, *shape)).float()


@cache
def base_logits() -> Tensor:
    head = PyramidHead(HIGH, BASE + 1, width=8)
    head.load_state_dict(fill(head.state_dict(), gain=1.5))
    with torch.no_grad():
        found: Tensor = head.eval()(by_formula("bam high", 2, HIGH, GRID, GRID))
    return found


def looks(shots: int) -> tuple[Tensor, Tensor]:
    shapes = [by_formula(f"bam support {i}", 2, LOW, GRID, GRID).abs() * (i + 1) for i in range(shots)]
    supports = [s + by_formula(f"bam shift {i}", 2, LOW, 1, 1) for i, s in enumerate(shapes)]
    return by_formula("bam query", 2, LOW, GRID, GRID).abs(), torch.stack(supports, dim=1)


def ensemble(shots: int, weighing: GramShots) -> Ensemble:
    built = Ensemble(shots, weighing)
    state = built.state_dict()
    weights = fill({key: value for key, value in state.items() if key.startswith("reweigh.")}, gain=3.0)
    if shots > 1:
        weights["reweigh.0.bias"] += 0.5
    weights["gram_merge.weight"] = torch.tensor([0.9, -0.3]).view(1, 2, 1, 1)
    weights["cls_merge.weight"] = torch.tensor([0.8, 0.6]).view(1, 2, 1, 1)
    built.load_state_dict(weights)
    return built


def truth() -> Tensor:
    target = torch.zeros(2, 4 * GRID + 1, 4 * GRID + 1, dtype=torch.long)
    target[0, 10:30, 5:25], target[1, 20:40, 20:45], target[:, :2] = 1, 1, 255
    return target


def test_head() -> None:
    own = {key for key in PyramidHead(HIGH, BASE + 1, width=8).state_dict() if not key.endswith("batches_tracked")}
    assert own == set(NUMBERS["head_keys"].tolist())
    np.testing.assert_allclose(base_logits().numpy(), NUMBERS["head"], atol=5e-6)


CASES: list[tuple[GramShots, int]] = [("bam", 1), ("bam", 5), ("pi_clip", 5)]


@pytest.mark.parametrize(("weighing", "shots"), CASES)
@pytest.mark.parametrize("mode", ["train", "test"])
def test_merge(weighing: GramShots, shots: int, mode: str) -> None:
    """In training the asked class, the second and the fifth of the base classes, is left out of the background."""
    record, distances = f"{weighing}/{shots}/{mode}", gram_distance(*looks(shots))
    np.testing.assert_allclose(distances.numpy(), NUMBERS[f"{record}/distances"], atol=5e-6)
    built = ensemble(shots, weighing)
    np.testing.assert_allclose(built._distance(distances).detach().numpy(), NUMBERS[f"{record}/distance"], atol=5e-6)
    left_out = torch.tensor([2, 5]) if mode == "train" else None
    found = built(3 * by_formula("bam meta", 2, 2, GRID, GRID), base_logits(), distances, left_out)
    np.testing.assert_allclose(found.detach().numpy(), NUMBERS[f"{record}/final"], atol=1e-5)
    assert float(cross_entropy(found, truth()).detach()) == pytest.approx(float(NUMBERS[f"{record}/ce"]), abs=2e-6)


def test_it_begins_as_the_few_shot_network_beside_nothing() -> None:
    """The first weights take probabilities as they are; zero as the left-out class leaves out none of the base."""
    logits, distances = by_formula("bam meta", 2, 2, GRID, GRID), torch.ones(2, 1)
    built = Ensemble(1)
    torch.testing.assert_close(built(logits, base_logits(), distances), logits.softmax(dim=1))
    none = torch.zeros(2, dtype=torch.long)
    whole = ensemble(1, "bam")
    torch.testing.assert_close(
        whole(logits, base_logits(), distances, none), whole(logits, base_logits(), distances, None)
    )


def test_who_learns_to_weigh() -> None:
    assert all(p.requires_grad for p in Ensemble(5, "bam").parameters())
    fixed = [name for name, p in Ensemble(5, "pi_clip").named_parameters() if not p.requires_grad]
    assert fixed == ["reweigh.0.weight", "reweigh.0.bias", "reweigh.2.weight", "reweigh.2.bias"]
