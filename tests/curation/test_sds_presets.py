"""SDS' options: presets as whole tables, their ranges, and what stays out of a hash."""

from typing import Any

import pytest
from pydantic import ValidationError

from maskmill.curation.cross_fit import CrossFitOptions
from maskmill.curation.sds import SdsConfig
from maskmill.data_contracts import FOR_HASH
from maskmill.pipelines.stages.score import score_stage
from maskmill.vision.crf_options import CrfOptions
from tests.curation.sds_samples import SPACE, config, image_of, score, table

CRF = {
    "iterations": 10,
    "gaussian_sxy": 1,
    "gaussian_weight": 3,
    "bilateral_sxy": 67,
    "bilateral_srgb": 3,
    "bilateral_weight": 4,
    "backend": "auto",
    "image": "rgb",
}
MENDED: dict[str, Any] = {  # the method as published: constants of the released scripts, by our names
    "model": "starter",  # the one thing that a preset leaves to the run: configs/sds-faithful.yaml names ViT-B/16
    "pretrained": None,
    "precision": "fp32",
    "templates": ("a clean origami {}.",),
    "synonyms": False,
    "labels": "mask",
    "image_side": None,
    "temperature": None,
    "perturbation": "tiles",
    "grid": 4,
    "permutations": 1,
    "image_score": "pcs",
    "asf_gate": None,
    "cam_layer": "norm",
    "n_attention": 8,
    "box_threshold": None,
    "edge_fix": False,
    "refine": "crf",
    "crf": CRF,
    "confidence": 0.95,
    "ignore_policy": "authors",
    "mask_score": "asf",
    "swap_check": False,
    "swap_margin": 0.05,
    "judge": "clip",
    "cross_fit": CrossFitOptions().model_dump(),
    "by_boxes": {"model": None, "prompts": "boxes", "threshold": 0.5, "precision": "fp32"},
    "embed": None,
}
RELEASED: dict[str, Any] = {  # what the released code computes instead
    "perturbation": "channels",
    "crf": {**CRF, "backend": "pydensecrf", "image": "wrapped_bgr"},
}
OURS: dict[str, Any] = {
    "labels": "prompt",
    "image_side": 256,
    "temperature": 0.2,
    "permutations": 3,
    "image_score": "evidence",
    "cam_layer": "output",
    "edge_fix": True,
    "refine": "none",
    "confidence": 0.0,
    "mask_score": "both",
}


def test_presets_as_whole_tables() -> None:
    assert SdsConfig(preset="faithful").model_dump() == {"preset": "faithful", **MENDED, **RELEASED}
    assert SdsConfig(preset="mended").model_dump() == {"preset": "mended", **MENDED}
    assert SdsConfig().model_dump() == {"preset": "starter", **MENDED, **OURS}
    own_backend = SdsConfig.model_validate({"preset": "faithful", "crf": {"backend": "mean_field"}})
    assert own_backend.crf == CrfOptions(backend="mean_field", image="wrapped_bgr")


def test_presets_fill_in_and_given_values_win() -> None:
    starter = SdsConfig()
    assert SdsConfig.model_validate(starter.model_dump()) == starter
    assert SdsConfig(preset="starter", permutations=9).permutations == 9
    with pytest.raises(ValidationError):
        SdsConfig.model_validate({"permutation": 3})
    with pytest.raises(ValueError, match="multiple of 64"):
        score(table([(image_of(0), (1,))]), image_side=100)


def test_scores_of_before_the_later_options_stay_valid() -> None:
    later = {"perturbation", "crf"}
    for preset in ("starter", "mended"):
        dumped = SdsConfig(preset=preset).model_dump(mode="json", context=FOR_HASH)
        assert not later & set(dumped)
        assert SdsConfig.model_validate(SdsConfig(preset=preset).model_dump(mode="json")) == SdsConfig(preset=preset)
    assert later < set(SdsConfig(preset="faithful").model_dump(mode="json", context=FOR_HASH))
    stamps = {
        score_stage(config(**more), SPACE, 0).config_hash for more in ({}, {"grid": 2}, {"perturbation": "channels"})
    }
    assert len(stamps) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_side": 31},
        {"temperature": 0},
        {"grid": 1},
        {"permutations": 0},
        {"n_attention": 0},
        {"box_threshold": 0},
        {"box_threshold": 1},
        {"confidence": 1.1},
        {"confidence": -0.1},
        {"swap_margin": -0.1},
        {"templates": []},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SdsConfig.model_validate(wrong)


@pytest.mark.parametrize(
    "edge", [{"image_side": 32}, {"grid": 2}, {"permutations": 1}, {"n_attention": 1}, {"confidence": 1.0}]
)
def test_the_ends_of_their_ranges_are_allowed(edge: dict[str, Any]) -> None:
    assert SdsConfig.model_validate(edge).model_dump().items() >= edge.items()
