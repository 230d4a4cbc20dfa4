"""What is wrong with a network that trained to its end: one answer for everything, or a loss that never moved."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array

LOOKED_AT = 4  # training samples that a finished network is tried on
LEAST = 20  # records that say whether a loss moves
STILL = 1e-3  # share of the first loss within which it has not moved


def still_loss(records: Sequence[dict[str, Any]]) -> str | None:
    """A sentence where the mean of the last tenth of the losses is that of the first and nothing lies between."""
    losses = np.array([record["loss"] for record in records if "loss" in record])
    if len(losses) < LEAST:
        return None
    tenth = len(losses) // 10
    first, last = float(losses[:tenth].mean()), float(losses[-tenth:].mean())
    if np.ptp(losses) > STILL * max(abs(first), 1e-12) or abs(last - first) > STILL * max(abs(first), 1e-12):
        return None
    return (
        f"the loss has not moved: {first:.4g} in the first steps, {last:.4g} in the last; raise lr, or look at the data"
    )


def one_answer(predicted: Sequence[Uint8Array], truths: Sequence[Uint8Array], space: LabelSpace) -> str | None:
    """A sentence where predictions (H, W) hold one value alone and the truth (H, W, 255 = ignore) holds more."""
    wanted = {int(value) for truth in truths for value in np.unique(truth)} - {IGNORE}
    found = {int(value) for labels in predicted for value in np.unique(labels)} - {IGNORE}
    if len(wanted) < 2 or len(found) > 1:
        return None
    only = next(iter(found), None)
    named = "nothing at all" if only is None else "background" if only == space.background_id else _name(only, space)
    return (
        f"the network has collapsed: it predicts {named} everywhere on {len(predicted)} of its own training samples, "
        f"which show {', '.join(sorted(_name(value, space) for value in wanted))}; train longer, or lower lr"
    )


def _name(value: int, space: LabelSpace) -> str:
    return space.by_id[value].name if value in space.by_id else "background"
