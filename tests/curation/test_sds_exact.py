"""SDS by exact values: presets as whole dictionaries, and each small step on inputs whose answer can be told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from maskmill.curation.cross_fit import CrossFitOptions
from maskmill.curation.sds import SdsConfig, asf_score, boundary, pseudo_label
from maskmill.curation.sds import score as scoring
from maskmill.curation.sds.boundary import boundary_score, edge_percentiles
from maskmill.curation.sds.fit import shown_at_all
from maskmill.curation.sds.images import Prepared, Unscored, choose_labels, prepare, resize
from maskmill.curation.sds.model import Engine, Reading, make_engine, read_samples, swapped_classes
from maskmill.curation.sds.pcs import Readings, image_scores, shuffle_tiles, tile_permutations
from maskmill.data_contracts import LabelSpace, Uint8Array, encode_image, encode_mask
from maskmill.vision.clip import DenseFeatures, load_clip
from maskmill.vision.crf_options import CrfOptions, crf_backend
from tests.curation.sds_samples import SPACE, TINY, config, image_of

torch.set_num_threads(1)

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
MENDED: dict[str, Any] = {
    "model": "starter",
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
    "by_boxes": {"model": None, "precision": "fp32"},
    "embed": None,
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


def test_presets_are_what_the_card_says() -> None:
    released = {"perturbation": "channels", "crf": {**CRF, "backend": "pydensecrf", "image": "wrapped_bgr"}}
    assert SdsConfig(preset="faithful").model_dump() == {"preset": "faithful", **MENDED, **released}
    assert SdsConfig(preset="mended").model_dump() == {"preset": "mended", **MENDED}
    assert SdsConfig().model_dump() == {"preset": "starter", **MENDED, **OURS}


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


# ASF


def test_a_value_at_the_confidence_is_sure_enough() -> None:
    maps = np.array([[[0.5, 0.2, 0.1]], [[0.25, 0.75, 0.125]]], np.float32)
    assert pseudo_label(maps, (3,), 0, 0.5).tolist() == [[0, 3, 255]]


def test_one_pixel_is_enough_and_none_is_zero() -> None:
    one = np.array([[1, 0]], np.uint8)
    found = asf_score(one, one, [1, 2])
    assert (found.pooled, found.per_class) == (1.0, {1: 1.0, 2: 0.0})
    assert asf_score(one, np.array([[1, 255]], np.uint8), [1]).ignore_fraction == 0.5
    with pytest.raises(ValueError, match="equal shapes"):
        asf_score(one, one.T, [1])


def test_only_what_is_undecided_is_left_out() -> None:
    mask, pseudo = np.array([[1, 1, 1, 0]], np.uint8), np.array([[1, 255, 0, 1]], np.uint8)
    assert asf_score(mask, pseudo, [1], "authors").pooled == 1 / 4
    assert asf_score(mask, pseudo, [1], "exclude").pooled == 1 / 3


# borders


def test_widths_of_the_border_score() -> None:
    assert (boundary.WORK_SIDE, boundary.SMOOTHING, boundary.TOLERANCE, boundary.MARGIN) == (320, 3.0, 2, 2)


@pytest.mark.parametrize("turned", [False, True])
def test_the_strongest_ranks_lie_within_the_tolerance_of_a_step(turned: bool) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 200
    ranks = edge_percentiles(np.ascontiguousarray(image.transpose(1, 0, 2)) if turned else image)
    columns = (ranks.T if turned else ranks)[20]
    (top,) = np.nonzero(columns == columns.max())
    assert top.tolist() == [37, 38, 39, 40, 41]  # where it rises, and two more pixels on either side
    assert columns[0] < 0.5
    falling = edge_percentiles(np.ascontiguousarray(image[:, ::-1]))[20]
    assert falling.tolist() == edge_percentiles(image)[20, ::-1].tolist()


def test_a_border_is_two_pixels_wide_and_keeps_off_the_frame() -> None:
    region = np.zeros((100, 100), bool)
    region[20:40, 30:60] = True
    assert int(boundary._border(region).sum()) == 22 * 32 - 18 * 28
    region = np.zeros((100, 100), bool)
    region[:10] = True
    assert np.argwhere(boundary._border(region)).min(axis=0).tolist() == [9, 2]
    assert np.argwhere(boundary._border(region)).max(axis=0).tolist() == [10, 97]
    assert int(boundary._border(region.T).sum()) == 2 * 96
    assert int(boundary._border(region[::-1]).sum()) == 2 * 96


def test_pictures_are_brought_to_one_longer_side() -> None:
    stripes = np.zeros((320, 640, 3), np.uint8)
    stripes[:, ::2] = 200
    mask = np.zeros((320, 640), np.uint8)
    mask[:, 301:] = 7
    image, small = boundary._shrink(stripes, mask)
    assert image.shape == (160, 320, 3)
    assert set(np.unique(image)) == {100}  # areas are averaged
    assert set(np.unique(small)) == {0, 7}
    grey = np.zeros((40, 80, 3), np.uint8)
    grey[:, 40:] = 200
    large, wide = boundary._shrink(grey, (grey[..., 0] > 0).astype(np.uint8) * np.uint8(7))
    assert large.shape == (160, 320, 3)
    assert len(np.unique(large)) > 2  # enlarged without steps
    assert set(np.unique(wide)) == {0, 7}
    assert boundary._shrink(np.zeros((1000, 10, 3), np.uint8), np.zeros((1000, 10), np.uint8))[1].shape == (320, 8)


def test_borders_count_by_their_length_and_from_chance_on() -> None:
    image = np.zeros((320, 320, 3), np.uint8)
    image[100:200, 100:200] = 220
    mask = (image[..., 0] > 0).astype(np.uint8)
    right = boundary_score(image, mask, [1])
    ranks, border = edge_percentiles(image), boundary._border(mask == 1)
    assert right.per_class[1] == pytest.approx(2 * float(ranks[border].mean()) - 1)
    with_absent = boundary_score(image, mask, [1, 2])
    length = int(border.sum())
    assert with_absent.per_class[2] == 0.0
    assert with_absent.pooled == pytest.approx(right.pooled * length / (length + 1))
    moved = np.zeros_like(mask)
    moved[20:60, 220:300] = 1
    assert boundary_score(image, moved, [1]).pooled == 0.0  # worse than chance is not less than nothing
    assert boundary_score(image, mask, [1], labels=[2]).pooled == 0.0
    assert boundary_score(image, mask, [1], labels=[1, 2]).pooled == right.pooled


# PCS


def entropies(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).log()


def test_the_gap_is_the_mean_of_absolute_gaps() -> None:
    """H of the image is ln 2, of its two copies 0 and 2 ln 2: gaps of ln 2 that must not cancel."""
    plain = entropies([0.5, 0.5, 0, 0])
    mixed = torch.stack([entropies([1, 0, 0, 0]), entropies([0.25] * 4)])
    unit = torch.tensor([[1.0, 0.0]])
    own = torch.tensor([[True, False, False, False]])
    found = Readings(unit, plain, unit.expand(2, 1, 2), mixed, own)
    assert found.gaps.tolist() == pytest.approx([np.log(2)])
    assert image_scores("pcs", found).tolist() == pytest.approx([np.log(2)])
    assert image_scores("drop", found).tolist() == pytest.approx([0.5 - (1 + 0.25) / 2])


def test_permutations_are_pinned() -> None:
    """They stand in people's scores: a change here makes every one of them stale."""
    assert tile_permutations(0, "a", 2, 4)[0].tolist() == [2, 14, 6, 9, 15, 1, 12, 5, 10, 4, 8, 11, 0, 7, 13, 3]
    assert tile_permutations(0, "a", 1, 3).shape == (1, 9)


@pytest.mark.parametrize(("height", "width", "tiles"), [(8, 9, 4), (9, 8, 4), (8, 8, 5)])
def test_tiles_that_do_not_fit_are_refused(height: int, width: int, tiles: int) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        shuffle_tiles(torch.zeros(3, height, width), np.arange(tiles))


# images


def test_classes_come_from_the_prompt_the_mask_or_what_is_stated() -> None:
    row = {"prompt_class_ids": [4, 2, 2, 99], "class_ids": [3]}
    prompt, mask = config(labels="prompt"), config(labels="mask")
    assert choose_labels(row, (1,), prompt, SPACE) == (2, 4)
    assert choose_labels(row, (1,), mask, SPACE) == (1,)
    assert choose_labels({"class_ids": [3]}, (1,), prompt, SPACE) == (1,)
    assert choose_labels({"class_ids": [3]}, (), prompt, SPACE) == (3,)
    assert choose_labels({}, (), prompt, SPACE) == ()
    assert choose_labels({"class_ids": [4, 3, 1]}, (), mask, SPACE) == (1, 3, 4)


def test_sides_are_rounded_up_and_pixels_are_bicubic() -> None:
    image = image_of(1, 65, 128)
    assert tuple(resize(image, None, 64).shape) == (3, 128, 128)
    assert tuple(resize(image, 96, 64).shape) == (3, 96, 96)
    same = image_of(2, 64, 128)
    assert torch.equal(resize(same, None, 64), torch.from_numpy(same.transpose(2, 0, 1).copy()))
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    assert int(resize(step, 128, 64).max()) > 200  # only a cubic overshoots


def row(mask: Uint8Array | None, image: Uint8Array | None = None, **more: Any) -> dict[str, Any]:
    picture = {"bytes": encode_image(image_of(1) if image is None else image)}
    return {"sample_id": "a", "image": picture, "mask": None if mask is None else {"bytes": encode_mask(mask)}, **more}


def test_what_cannot_be_scored_says_why() -> None:
    def reasons(one: dict[str, Any]) -> tuple[str, int | None] | None:
        found = prepare(one, config(), SPACE, 64)
        return (str(found.reason), found.n_classes) if isinstance(found, Unscored) else None

    empty = np.zeros((64, 64), np.uint8)
    half = empty.copy()
    half[:32] = 255
    assert reasons(row(empty)) == ("no_classes", 0)
    assert reasons(row(half)) == ("no_classes", 0)  # background is seen in a part of it
    assert reasons(row(np.full((64, 64), 255, np.uint8))) == ("no_classes", None)
    assert reasons(row(None)) == ("no_classes", None)
    assert reasons(row(empty[:32])) == ("score_failed", None)
    assert reasons(row(empty, class_ids=[1])) is None
    assert reasons({**row(empty), "image": {"bytes": None}}) == ("score_failed", None)


# model


@pytest.fixture(scope="module")
def engine() -> Callable[..., Engine]:
    backbone = load_clip(TINY)
    return lambda space=SPACE, micro=None, **options: make_engine(config(**options), space, backbone, micro)


def prepared(image: Uint8Array, labels: tuple[int, ...] = (1,), mask: Uint8Array | None = None) -> Prepared:
    present = labels if mask is None else tuple(int(i) for i in np.unique(mask) if i)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return Prepared("a", labels, present, image, mask, pixels)


def test_an_engine_answers_for_its_config(engine: Callable[..., Engine]) -> None:
    assert engine(temperature=0.25).scale == 4.0
    assert engine(temperature=None).scale == load_clip(TINY).logit_scale
    assert engine(grid=2).multiple == 2 * load_clip(TINY).patch
    assert engine(box_threshold=0.3).box_threshold == 0.3
    assert engine(box_threshold=None).box_threshold == SPACE.cam_box_threshold
    assert engine().micro_batch == 1
    assert engine(micro=3).micro_batch == 3
    with pytest.raises(ValueError, match="multiple of 64"):
        engine(image_side=96)


def test_as_many_samples_as_fit_are_read(engine: Callable[..., Engine]) -> None:
    one = prepared(image_of(1))
    assert len(read_samples([one, one], engine(micro=2), 0)) == 2
    for wrong in ([], [one] * 3):
        with pytest.raises(ValueError, match="expected 1 to 2 samples"):
            read_samples(wrong, engine(micro=2), 0)


def test_entropy_of_copies_is_their_mean_and_own_classes_are_no_background_words(engine: Callable[..., Engine]) -> None:
    one = prepared(image_of(5), (1, 2))
    several, first = (read_samples([one], engine(permutations=n), 0)[0] for n in (4, 1))
    assert several.h_orig == first.h_orig
    assert 0 < several.h_mix < 2 * first.h_mix
    (drop,) = read_samples([one], engine(image_score="drop"), 0)
    assert abs(drop.image_score) > 1e-6  # with background words among its own an image has all of the mass


def test_a_gate_is_passed_above_it_alone(engine: Callable[..., Engine]) -> None:
    masked = prepared(image_of(5), mask=np.ones((64, 64), np.uint8))
    (free,) = read_samples([masked], engine(), 0)
    assert free.maps is not None
    assert read_samples([masked], engine(asf_gate=free.image_score), 0)[0].maps is None
    below = float(np.nextafter(free.image_score, -1))
    assert read_samples([masked], engine(asf_gate=below), 0)[0].maps is not None


class Planted:
    """Stands in for the backbone: given patch embeddings (L, D)."""

    def __init__(self, patches: torch.Tensor) -> None:
        self.patches = patches

    def patch_embeddings(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches[None].expand(len(x), -1, -1)


def swaps(
    engine: Engine, patches: torch.Tensor, grid: tuple[int, int], mask: Uint8Array, labels: tuple[int, ...]
) -> Any:
    planted = Engine(Planted(patches), engine.bank, engine.config, engine.space, 1)  # type: ignore[arg-type]
    sample = prepared(image_of(0, *mask.shape), labels, mask)
    return swapped_classes([sample], DenseFeatures(torch.zeros(1, len(patches), 8), None, grid, 0), planted)[0]


def test_the_class_that_leads_most_wins_and_by_more_than_the_margin(engine: Callable[..., Engine]) -> None:
    """A grid of one row and three columns: region 1 looks a little more like class 3, region 2 wholly like class 4."""
    plain = engine(swap_check=True, swap_margin=0.0)
    first, second, third, fourth = plain.bank.matrix[plain.bank.rows([1, 2, 3, 4])]
    mask = np.zeros((16, 48), np.uint8)
    mask[:, :16], mask[:, 32:] = 1, 2
    patches = torch.stack([torch.nn.functional.normalize(first + 1.1 * third, dim=0), second, fourth])
    assert swaps(plain, patches, (1, 3), mask, (1, 2)) == 4
    mask[:, 32:] = 0
    assert swaps(plain, patches, (1, 3), mask, (1, 2)) == 3
    lead = float(patches[0] @ third - patches[0] @ first)
    assert swaps(engine(swap_check=True, swap_margin=lead + 1e-4), patches, (1, 3), mask, (1, 2)) is None
    assert swaps(engine(swap_check=True, swap_margin=lead - 1e-4), patches, (1, 3), mask, (1, 2)) == 3
    assert swaps(plain, patches, (1, 3), mask, (1, 2, 3, 4)) is None  # nobody is absent
    half = mask.copy()
    half[:, :8] = 0  # the region's share of a patch is its weight, not its lead
    assert swaps(engine(swap_check=True, swap_margin=lead - 1e-4), patches, (1, 3), half, (1, 2)) == 3


# fit


def test_a_name_that_ranks_below_everyday_words_says_nothing(engine: Callable[..., Engine]) -> None:
    space = LabelSpace.from_names(["cat", "Grass"])
    one = engine(space=space)
    bank = one.bank.matrix

    def text(word: str) -> list[float]:
        mean = one.backbone.encode_text([t.format(word) for t in one.config.templates]).mean(dim=0)
        return torch.nn.functional.normalize(mean, dim=-1).tolist()

    rows = [
        ([1], bank[one.bank.row_of[1]].tolist()),
        ([1], text("sky")),
        ([1, 2], bank[one.bank.row_of[2]].tolist()),  # grass is a class here, and no background word
        ([], text("sky")),
        ([1], None),
        ([1], [1.0, 0.0]),  # another model's
        ([7], text("sky")),
    ]
    table = pa.table({"label_ids": [r[0] for r in rows], "embedding": [r[1] for r in rows]})
    assert shown_at_all(table, one) == [True, False, True]


# from maps to rows


def draft(maps: np.ndarray, image: Uint8Array, mask: Uint8Array | None = None, classes: tuple[int, ...] = (1,)) -> Any:
    reading = Reading(0.1, 0.2, 0.3, 0.4, np.array([1 / 3, 2 / 3], np.float32), maps.astype(np.float32))
    sample = Prepared("a", (1,), classes, image, mask, torch.zeros(3, 64, 64, dtype=torch.uint8))
    return scoring.Draft(sample, reading)


def test_maps_are_enlarged_bilinearly_under_a_background(engine: Callable[..., Engine]) -> None:
    image = np.zeros((1, 4, 3), np.uint8)
    found = scoring._upsampled(draft(np.array([[[0.0, 1.0]]]), image), engine())
    assert found.tolist() == [[[1.0, 0.75, 0.25, 0.0]], [[0.0, 0.25, 0.75, 1.0]]]
    outside = scoring._upsampled(draft(np.array([[[-1.0, 2.0]]]), np.zeros((1, 2, 3), np.uint8)), engine())
    assert outside.tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    bare = LabelSpace.model_validate({**SPACE.model_dump(), "background_id": None})
    assert scoring._upsampled(draft(np.array([[[0.0, 1.0]]]), image), engine(space=bare)).shape == (1, 1, 4)


def test_refiners_by_name(engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CrfOptions] = []

    def note(items: list[Any], workers: int, options: CrfOptions) -> list[Any]:
        asked.append(options)
        return [p for _, p in items]

    monkeypatch.setattr(scoring, "refine_many", note)
    image = image_of(1, 16, 16)
    maps = np.stack([np.full((16, 16), 0.5), np.full((16, 16), 1.0)]).astype(np.float32)
    for kind in ("crf", "mean_field"):
        scoring._refine([(image, maps)], engine(refine=kind, crf={"backend": "auto", "bilateral_sxy": 9}), 1)
    assert [options.backend for options in asked] == [crf_backend("auto"), "mean_field"]
    assert [options.bilateral_sxy for options in asked] == [9, 9]
    assert scoring._refine([(image, maps)], engine(refine="none"), 1)[0] is maps
    (smooth,) = scoring._refine([(image, maps)], engine(refine="par"), 1)
    assert np.allclose(smooth.sum(axis=0), 1, atol=1e-6)
    assert len(asked) == 2


def test_rows_hold_what_was_measured(engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint8)
    mask[2:] = 2
    borders = boundary.BoundaryScore(0.5, {1: 0.4, 2: 0.8})
    monkeypatch.setattr(scoring, "boundary_score", lambda *_: borders)
    maps = np.stack([np.full((4, 4), 0.1), np.full((4, 4), 0.9)]).astype(np.float32)  # class 1 everywhere: IoU 1/2
    one = draft(maps[1:], image, mask, (1, 2))
    for kind, pooled, first, second in (
        ("asf", 8 / 24, 0.5, 0.0),
        ("boundary", 0.5, 0.4, 0.8),
        ("both", 0.5 * (1 + 8 / 24) / 2, 0.4 * 0.75, 0.8 * 0.5),
    ):
        found = scoring._mask_columns(one, maps, engine(mask_score=kind))
        assert found["asf"] == pytest.approx(pooled)
        assert [c["iou"] for c in found["per_class"]] == pytest.approx([first, second])
    columns = scoring._image_columns(one)
    assert columns["n_classes"] == 2
    assert columns["embedding"] == [float(np.float16(1 / 3)), float(np.float16(2 / 3))]
    assert (columns["h_orig"], columns["h_mix"], columns["pcs"], columns["image_score"]) == (0.1, 0.2, 0.3, 0.4)
    assert scoring._image_columns(draft(maps, image, None, ()))["n_classes"] == 1
