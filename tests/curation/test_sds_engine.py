"""SDS by exact values: what an engine reads from samples, and how its maps become rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from maskmill.curation.sds import boundary
from maskmill.curation.sds import score as scoring
from maskmill.curation.sds.fit import shown_at_all
from maskmill.curation.sds.images import Prepared
from maskmill.curation.sds.model import Engine, Reading, make_engine, read_samples, swapped_classes
from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.vision.clip import DenseFeatures, load_clip
from maskmill.vision.crf_options import CrfOptions, crf_backend
from tests.curation.sds_samples import SPACE, TINY, config, image_of

torch.set_num_threads(1)


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
        own = engine(mask_score=kind)
        found = scoring._mask_columns(one, scoring._against_maps(one.sample, maps, own), own)
        assert found["asf"] == pytest.approx(pooled)
        assert [c["iou"] for c in found["per_class"]] == pytest.approx([first, second])
    columns = scoring._image_columns(one)
    assert columns["n_classes"] == 2
    assert columns["embedding"] == [float(np.float16(1 / 3)), float(np.float16(2 / 3))]
    assert (columns["h_orig"], columns["h_mix"], columns["pcs"], columns["image_score"]) == (0.1, 0.2, 0.3, 0.4)
    assert scoring._image_columns(draft(maps, image, None, ()))["n_classes"] == 1
