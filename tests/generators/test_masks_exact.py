"""Attention to masks by exact values: the published constants, and what is read of each attention layer."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from maskmill.generators.capture import AttentionStore, attention_probabilities, choose_grid
from maskmill.generators.config import MaskConfig


def test_the_published_constants() -> None:
    found = MaskConfig()
    assert (found.power, found.foreground, found.uncertain) == (4, 0.6, 0.5)
    for wrong in ({"foreground": 0.4, "uncertain": 0.5}, {"power": -1}, {"foreground": 1.1}):
        with pytest.raises(ValidationError):
            MaskConfig.model_validate(wrong)


class Attention:
    """An attention layer of two heads of two channels, whose query and key are the states themselves."""

    heads = 2
    scale = 2**-0.5
    group_norm = spatial_norm = norm_cross = None

    def to_q(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def to_k(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_probabilities_are_scaled_by_the_width_of_a_head_and_averaged_over_heads() -> None:
    states = torch.tensor([[[1.0, 0.0, 2.0, 1.0], [0.0, 1.0, 0.0, 3.0]]])
    found = attention_probabilities(Attention(), states, states)  # type: ignore[arg-type]
    heads = [states[0, :, :2], states[0, :, 2:]]
    wanted = sum((h @ h.T / 2**0.5).softmax(dim=-1) for h in heads) / 2
    torch.testing.assert_close(found[0], wanted)


def test_the_conditional_half_is_the_second_one() -> None:
    store = AttentionStore()
    both = torch.arange(4.0).reshape(4, 1, 1)
    store.guided = True
    assert store.conditional(both).flatten().tolist() == [2.0, 3.0]
    store.guided = False
    assert store.conditional(both).flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_maps_are_averaged_over_all_that_was_seen() -> None:
    store = AttentionStore()
    attention: Any = Attention()
    embeds = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 1.0, 0.0]]])
    store.begin(embeds, guided=False)
    states = [torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for x in states:
        store.see_self(attention, x)
    for x in states[:2]:
        store.see_cross(attention, x)
    own, cross = store.averages()
    torch.testing.assert_close(own, sum(attention_probabilities(attention, x, x) for x in states) / 3)
    torch.testing.assert_close(cross, sum(attention_probabilities(attention, x, embeds) for x in states[:2]) / 2)
    store.begin(embeds, guided=False)
    with pytest.raises(RuntimeError):
        store.averages()


def layer(kind: str, side: int) -> Any:
    return SimpleNamespace(kind=kind, grid=(side, side), name=f"{kind}{side}")


def test_the_largest_grid_that_is_allowed_is_chosen() -> None:
    layers = [layer("self", 8), layer("self", 16), layer("self", 64), layer("cross", 32)]
    assert choose_grid(layers, "self", None, 32) == (16, 16)
    assert choose_grid(layers, "self", None, 64) == (64, 64)
    assert choose_grid(layers, "self", None, 4) == (8, 8)
    assert choose_grid(layers, "self", 8, 32) == (8, 8)
    assert choose_grid(layers, "cross", None, 32) == (32, 32)
