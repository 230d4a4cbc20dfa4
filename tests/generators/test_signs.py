"""Signs that a class was drawn at all: formulas, independence of the image, and where they are kept."""

import json

import numpy as np
import pytest
import torch
from small_families import save_sdxl
from small_pipelines import save_pipeline

from maskmill.data_contracts import load_label_space
from maskmill.generators.attention_masks import SIGNS, ClassMaps, signs_of
from maskmill.generators.config import GeneratorConfig, MaskConfig, settings_for_hash
from maskmill.generators.prompts import PromptConfig, prompts_from_classes
from maskmill.generators.records import sample_row
from maskmill.generators.spans import Window, class_spans, lineup_spans
from maskmill.generators.text_to_image import TextToImage, request_from_row

VOC = load_label_space("voc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return save_pipeline(tmp_path_factory.mktemp("small"))


def engine(folder, **mask):
    config = GeneratorConfig(model=str(folder), steps=2, batch_size=2, device="cpu", mask=MaskConfig(**mask))
    return TextToImage(config)


def requests():
    rows = prompts_from_classes(VOC, PromptConfig(classes=("dog", "potted plant")), 2, seed=0)
    return [request_from_row(row, VOC) for row in rows]


def test_peak_contrast_and_share_by_hand() -> None:
    maps = torch.tensor([[[0.1, 0.1], [0.1, 0.5]], [[0.2, 0.2], [0.2, 0.2]]])
    lineup = torch.tensor(
        [[[9.0, 9.0], [9.0, 0.3]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.1]], [[3.0, 3.0], [3.0, 0.2]]]
    )
    mask = torch.tensor([[0, 0], [0, 5]], dtype=torch.uint8)
    signs = signs_of(ClassMaps(maps, None, lineup=lineup), mask, [5, 7], 0)
    assert signs[5] == pytest.approx({"peak": 0.5, "contrast": 0.5 / 0.2, "share": 0.3 / (0.3 + 0.1 + 0.2)})
    assert signs[7]["contrast"] == pytest.approx(1.0)
    lost = [1 / 4, 1 / 4, 1 / 4, 1 / 1.3]
    assert signs[7]["share"] == pytest.approx(np.mean(lost)), "a flat map's highest tenth is all of it"
    assert set(signs_of(ClassMaps(maps, None), mask, [5, 7], 0)[5]) == {"peak", "contrast"}


def test_maps_are_spread_before_they_are_judged() -> None:
    affinity = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    read = ClassMaps(torch.tensor([[[0.4, 0.0], [0.0, 0.0]]]), affinity)
    mask = torch.zeros(2, 2, dtype=torch.uint8)
    assert signs_of(read, mask, [1], 4)[1]["peak"] == pytest.approx(0.2)
    assert signs_of(read, mask, [1], 0)[1]["peak"] == pytest.approx(0.4)


def test_a_line_up_holds_the_classes_first_and_as_many_others_as_fit(folder) -> None:
    window = Window.clip(engine(folder).pipeline.tokenizer)
    own = class_spans(window, ["dog", "potted plant"], [12, 16])
    full = lineup_spans(window, own, ["dog", "potted plant"], [f"cat{'s' * (n % 2)}" for n in range(200)])
    assert full.spans[:2] == own.spans
    assert full.class_ids[:3] == (12, 16, -1)
    assert full.spans[-1][1] <= window.start + window.room < full.spans[-1][1] + 2
    assert all(a[1] == b[0] for a, b in zip(full.spans, full.spans[1:], strict=False))


def test_a_line_up_changes_no_image_and_no_mask(folder) -> None:
    plain, watched = engine(folder).draw(requests()), engine(folder, lineup=True).draw(requests())
    for a, b in zip(plain, watched, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.mask, b.mask)
        assert a.signs == {}
        assert b.signs.keys() == set(b.request.class_ids)
        for class_id, signs in b.signs.items():
            assert tuple(signs) == SIGNS
            assert signs["peak"] == pytest.approx(b.peaks[class_id], abs=2e-6)
            assert 0 < signs["share"] < 1
    alone = engine(folder, lineup=True).draw(requests()[1:2])
    assert alone[0].signs == watched[1].signs, "an image's signs are its own, whatever it is drawn beside"


def test_a_request_names_all_classes_that_nobody_asked_for() -> None:
    for one in requests():
        assert len(one.others) == 20 - len(one.class_ids)
        assert not set(one.others) & set(one.names)
    orders = {one.others for one in requests()}
    assert len(orders) > 1, "where a window is short, other images read other classes"


def test_signs_stand_in_provenance_and_only_where_asked_for(folder) -> None:
    for lineup in (False, True):
        made = engine(folder, lineup=lineup)
        (drawn,) = made.draw(requests()[:1])
        extra = json.loads(sample_row(drawn, made, VOC)["provenance"]["extra"])
        assert ("signs" in extra) is lineup
        if lineup:
            assert extra["signs"] == {str(c): signs for c, signs in drawn.signs.items()}
    assert "lineup" not in settings_for_hash(MaskConfig().model_dump(mode="json"))


def test_a_frugal_store_reads_the_same_line_up(tmp_path) -> None:
    folder = save_sdxl(tmp_path)
    drawn = engine(folder, lineup=True).draw(requests()[:2])
    assert all(0 < signs["share"] < 1 for one in drawn for signs in one.signs.values())
