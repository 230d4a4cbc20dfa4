"""What every labeler must do. A labeler's test inherits `LabelerConformance`, sets `name` and `settings`, and adds its
own cases; it overrides `item` where the method needs other weak labels than image tags.
"""

from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from maskmill.data_contracts import PSEUDO_LABEL, LabelSpace, decode_mask
from maskmill.labelers import Labeler, LabelItem, PseudoLabel, get_labeler
from tests.elsewhere import elsewhere
from tests.trainers import shapes


class LabelerConformance:
    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    space: ClassVar[LabelSpace] = shapes.SPACE
    tolerance: ClassVar[float] = 0.0  # share of pixels that companions may move, where batches round differently
    moved: ClassVar[float] = 0.02  # share of pixels that another device may move

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        """One image with its weak label."""
        image, mask = shapes.draw_scene(number, height, width)
        ids = tuple(int(i) for i in np.unique(mask) if i in self.space.by_id)
        return LabelItem(f"scene {number}", image, class_ids=ids)

    @pytest.fixture(scope="class")
    def engine(self) -> Labeler:
        module = get_labeler(self.name)
        return module.load(module.Config.model_validate(self.settings), self.space)

    def test_labels_have_the_images_size_and_the_spaces_ids(self, engine: Labeler) -> None:
        items = [self.item(0), self.item(1, 37, 80), self.item(2, 90, 40)]
        for item, found in zip(items, engine.label(items), strict=True):
            if found.mask is None or found.confidence is None:
                assert found.mask is None
                assert found.confidence is None
                assert found.reason is not None
                continue
            assert found.mask.shape == found.confidence.shape == item.image.shape[:2]
            assert found.mask.dtype == found.confidence.dtype == np.uint8
            assert set(np.unique(found.mask).tolist()) <= self.space.allowed_ids

    def test_a_label_does_not_depend_on_companions_or_order(self, engine: Labeler) -> None:
        items = [self.item(number) for number in range(5)] + [self.item(5, 64, 64)]
        together = engine.label(items)
        backwards = engine.label(items[::-1])[::-1]
        alone = [engine.label([item])[0] for item in items]
        for a, b, c in zip(together, backwards, alone, strict=True):
            assert difference(a, b) <= self.tolerance
            assert difference(a, c) <= self.tolerance

    def test_labels_on_a_second_device(self, engine: Labeler) -> None:
        """All that meets lies on one device, which the labeler finds by itself; the label is that of the first."""
        item, config = self.item(0), getattr(engine, "config")  # noqa: B009  (every engine has its own)
        with elsewhere():
            there = get_labeler(self.name).load(config, self.space).label([item])[0]
        assert difference(engine.label([item])[0], there) <= self.moved

    def test_nothing_in_nothing_out(self, engine: Labeler) -> None:
        assert engine.label([]) == []

    def test_rows_obey_the_contract(self, engine: Labeler) -> None:
        found = engine.label([self.item(0)])[0]
        row = found.row("a", self.name, "1", self.space)
        assert PSEUDO_LABEL.table([row]).num_rows == 1
        if found.mask is not None:
            np.testing.assert_array_equal(decode_mask(row["mask"]["bytes"]), found.mask)

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="no_such_setting"):
            get_labeler(self.name).Config.model_validate({"no_such_setting": 1})

    def test_stamps_are_strings(self) -> None:
        module = get_labeler(self.name)
        assert all(isinstance(stamp, str) for stamp in module.stamps(module.Config.model_validate(self.settings)))


def difference(a: PseudoLabel, b: PseudoLabel) -> float:
    """Share of pixels whose label or confidence differs; 1 where one abstained and the other did not."""
    if a.mask is None or b.mask is None or a.confidence is None or b.confidence is None:
        return float(a.mask is not b.mask or a.reason != b.reason)
    return float(((a.mask != b.mask) | (a.confidence != b.confidence)).mean())
