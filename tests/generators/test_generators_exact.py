"""What one-line changes showed to be untested: edges of bands, plans of quotas, lines of captions, records, outputs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_pipelines import save_pipeline

from maskmill.data_contracts import load_label_space, sample_seed
from maskmill.generators import loading, quota, text_to_image
from maskmill.generators.attention_masks import ClassMaps, label_map, mask_of
from maskmill.generators.config import ControlConfig, GeneratorConfig, MaskConfig
from maskmill.generators.mask_to_image import Rectify
from maskmill.generators.prompts import CaptionConfig, PromptConfig, prompts_from_captions, prompts_from_classes
from maskmill.generators.quota import ClassTally, QuotaState, hard_classes, plan_tries
from maskmill.generators.records import class_areas, sample_row
from maskmill.generators.text_to_image import TextToImage, request_from_row

VOC = load_label_space("voc")


def test_both_edges_of_the_band_belong_to_what_lies_above() -> None:
    maps = torch.tensor([[[0.25, 0.5, 0.625, 0.75]]])
    assert label_map(maps, [7], foreground=0.75, uncertain=0.5).tolist() == [[0, 255, 255, 7]]


def test_every_step_is_read_unless_somebody_leaves_some_out() -> None:
    assert MaskConfig().first_step == 0.0


def test_plans_grow_by_as_much_as_was_tried_and_spend_what_is_left() -> None:
    assert (quota.PILOT, quota.GROWTH) == (20, 1.0)
    assert plan_tries(QuotaState(), {1: 500}, budget=1000) == {1: 20}
    seen = QuotaState(prompts=90, tallies={1: ClassTally(tried=60, kept=30), 2: ClassTally(tried=30, kept=3)})
    assert plan_tries(seen, {1: 500}, budget=1000) == {1: 60}
    assert plan_tries(seen, {1: 500, 2: 500}, budget=100, per_prompt=2.0) == {1: 20}  # ten prompts name twenty classes
    assert plan_tries(seen, {1: 500, 2: 500}, budget=130, per_prompt=1.5) == {1: 60}


def test_the_class_furthest_from_its_quota_is_told_first() -> None:
    state = QuotaState(prompts=30, tallies={3: ClassTally(10, 5), 7: ClassTally(10, 1), 1: ClassTally(10, 5)})
    assert [one.class_id for one in hard_classes(state, {3: 10, 7: 10, 1: 10}, 100, VOC)] == [7, 1, 3]


def test_captions_are_stripped_and_few_classes_are_read() -> None:
    rows, left_out = prompts_from_captions(["  a dog on grass \n", "   \n", "a dog\n"], VOC, CaptionConfig(), seed=3)
    assert [row["prompt"] for row in rows] == ["a dog on grass; dog", "a dog; dog"]
    assert rows[1]["seed"] == sample_seed(3, "2|a dog", "noise")
    names = [one.name for one in VOC.classes[:7]]
    kept, left = prompts_from_captions([" and ".join(names[:6]), " and ".join(names)], VOC, CaptionConfig(), seed=0)
    assert (len(kept), len(left)) == (1, 1)
    assert left_out == []


def test_areas_are_shares_of_the_class() -> None:
    assert class_areas(np.array([[1, 1, 2, 0]], np.uint8), [1, 2]) == {"1": 0.5, "2": 0.25}


def test_a_layers_output_is_divided_by_its_factor() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Identity()
    attn = SimpleNamespace(**dict.fromkeys(("to_q", "to_k", "to_v"), plain), to_out=[plain, plain], heads=1, scale=1.0)
    hidden, closed = torch.randn(1, 3, 4), torch.zeros(1, 1, 3, 3)
    first, second = (
        Rectify(closed)(SimpleNamespace(**vars(attn), rescale_output_factor=factor), hidden) for factor in (1.0, 4.0)
    )
    assert torch.allclose(second, first / 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return save_pipeline(tmp_path_factory.mktemp("small"))


def test_the_fingerprint_of_a_model_knows_where_a_file_ends(tmp_path: Path) -> None:
    for name, parts in (("one", ("12", "3")), ("two", ("1", "23"))):  # JSON, and the same bytes one after the other
        (tmp_path / name).mkdir()
        for number, text in enumerate(parts):
            (tmp_path / name / f"{number}.json").write_text(text)
        (tmp_path / name / "model_index.json").write_text("{}")
    assert loading.model_fingerprint(str(tmp_path / "one")) != loading.model_fingerprint(str(tmp_path / "two"))


def test_signs_are_read_after_spreading_and_records_are_sorted(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    powers: list[int] = []
    real = text_to_image.signs_of

    def noted(maps: Any, mask: Any, class_ids: Any, power: int) -> Any:
        powers.append(power)
        return real(maps, mask, class_ids, power)

    monkeypatch.setattr(text_to_image, "signs_of", noted)
    config = GeneratorConfig(model=str(folder), steps=2, device="cpu", mask=MaskConfig(lineup=True, power=3))
    engine = TextToImage(config)
    (row,) = prompts_from_classes(VOC, PromptConfig(classes=("dog",)), 1, seed=0)
    (drawn,) = engine.draw([request_from_row(row, VOC)])
    assert set(powers) == {3}
    extra = json.loads(sample_row(drawn, engine, VOC)["provenance"]["extra"])
    assert list(extra) == sorted(extra)


def test_a_band_may_be_empty_but_not_turned_round() -> None:
    assert MaskConfig(foreground=0.5, uncertain=0.5).uncertain == 0.5
    with pytest.raises(ValueError, match="uncertain"):
        MaskConfig(foreground=0.5, uncertain=0.51)


def test_images_from_masks_have_the_guidance_that_is_usual() -> None:
    assert ControlConfig(model="m", controlnet="c").guidance == 7.5


def test_the_last_bits_of_a_map_do_not_move_its_border() -> None:
    read = ClassMaps(torch.tensor([[[0.0, 0.49999, 0.4998, 1.0]]]), None)
    labels, _ = mask_of(read, [7], (1, 4), MaskConfig(foreground=0.5, uncertain=0.5))
    assert labels.tolist() == [[0, 7, 0, 7]]
