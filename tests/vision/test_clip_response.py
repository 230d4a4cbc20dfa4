"""Class maps, affinity, boxes and spreading against plain slow versions."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.data_contracts import load_label_space
from maskmill.vision.clip import (
    ClipBackbone,
    DenseFeatures,
    TextBank,
    attention_affinity,
    box_masks,
    build_text_bank,
    class_cams,
    clip_response,
    load_clip,
    min_max,
    patch_maps,
    run_tail,
    spread,
    with_background,
)

DATA = Path(__file__).parents[1] / "data"
SCALE = 100.0
LABELS = [[8], [12, 15, 3], [1, 13], [20]]

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["tiny_clip", "tiny_clip_timm", "tiny_clip_conv"])
def backbone(request: pytest.FixtureRequest) -> ClipBackbone:
    return load_clip(str(DATA / request.param))


@pytest.fixture(scope="module")
def bank(backbone: ClipBackbone) -> TextBank:
    return build_text_bank(load_label_space("voc"), backbone)


@pytest.fixture(scope="module")
def dense(backbone: ClipBackbone) -> DenseFeatures:
    images = torch.randn(4, 3, 160, 192, generator=torch.Generator().manual_seed(3))
    return backbone.encode(images)


def slow_cam(backbone: ClipBackbone, dense: DenseFeatures, bank: TextBank, image: int, class_id: int) -> Tensor:
    """One image, one class, gradient of the probability itself, exact min-max."""
    x = dense.last_input[image : image + 1]
    z = backbone.last_norm(x).detach().requires_grad_(True)
    rows = bank.rows(LABELS[image]) + list(range(20, 45))
    p = (SCALE * backbone.tail_from_norm(z, x) @ bank.matrix[rows].T).softmax(dim=-1)
    (gradient,) = torch.autograd.grad(p[0, LABELS[image].index(class_id)], z)
    patches = slice(dense.prefix, None)
    weights = gradient[0, patches].mean(dim=0)
    cam = (z.detach()[0, patches] @ weights).relu().reshape(dense.grid)
    return (cam - cam.min()) / (cam.max() - cam.min()) if cam.max() > cam.min() else cam * 0


def test_pair_batched_log_probability_cams_equal_a_loop_over_classes(
    backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures
) -> None:
    response = clip_response(backbone, dense, bank, LABELS, scale=SCALE, box_threshold=None)
    assert response.cams.shape == (7, *dense.grid)
    for cam, image, class_id in zip(response.cams, response.pair_image, response.pair_class, strict=True):
        torch.testing.assert_close(cam, slow_cam(backbone, dense, bank, image, class_id), atol=2e-4, rtol=0)
        assert float(cam.max()) in (0.0, 1.0)
    assert bool(torch.isfinite(response.spread).all())
    assert float(response.spread.min()) >= 0.0
    assert float(response.spread.max()) <= 1.0
    assert response.of(1).shape[0] == 3


def test_a_pairs_map_does_not_depend_on_its_companions(
    backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures
) -> None:
    allowed = bank.allowed(LABELS)
    pairs = [(image, row) for image, ids in enumerate(LABELS) for row in bank.rows(ids)]
    images, rows = [p[0] for p in pairs], [p[1] for p in pairs]
    together = class_cams(backbone, dense, images, rows, bank, allowed, SCALE, whole=True)
    order = [5, 2, 0, 6, 1, 4, 3]
    mixed = class_cams(
        backbone, dense, [images[i] for i in order], [rows[i] for i in order], bank, allowed, SCALE, whole=True
    )
    assert torch.equal(mixed, together[order])
    alone = class_cams(backbone, dense, images[:1], rows[:1], bank, allowed, SCALE, whole=True)
    assert torch.equal(alone, together[:1])  # padding of the last chunk changes nothing


def test_output_layer_gives_the_plain_class_map(backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures) -> None:
    found = class_cams(backbone, dense, [1], bank.rows([12]), bank, bank.allowed(LABELS), SCALE, layer="output")
    y = backbone.last_output(backbone.last_norm(dense.last_input[1:2]), dense.last_input[1:2])
    y = y.detach().requires_grad_(True)
    rows = bank.rows(LABELS[1]) + list(range(20, 45))
    p = (SCALE * backbone.pool(y) @ bank.matrix[rows].T).softmax(dim=-1)
    (gradient,) = torch.autograd.grad(p[0, 0], y)
    patches = slice(dense.prefix, None)
    cam = (y.detach()[0, patches] @ gradient[0, patches].mean(dim=0)).relu().reshape(1, *dense.grid)
    torch.testing.assert_close(found, min_max(cam), atol=2e-4, rtol=0)
    other = class_cams(backbone, dense, [1], bank.rows([12]), bank, bank.allowed(LABELS), SCALE)
    assert torch.equal(found, other) == (not backbone.tower.blocks)  # without blocks the two layers are one


def test_maps_agree_whatever_else_the_last_block_is_run_for(
    backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures
) -> None:
    allowed, rows = bank.allowed(LABELS), bank.rows([12, 15, 3])
    alone = class_cams(backbone, dense, [1, 1, 1], rows, bank, allowed, SCALE)
    whole = class_cams(backbone, dense, [1, 1, 1], rows, bank, allowed, SCALE, whole=True)
    torch.testing.assert_close(alone, whole, atol=1e-3, rtol=0)
    for layer in ("norm", "output"):
        tail = run_tail(backbone, dense.last_input, layer)
        torch.testing.assert_close(tail.embeddings.detach(), backbone.tail(dense.last_input), atol=1e-5, rtol=0)
        given = class_cams(backbone, dense, [1, 1, 1], rows, bank, allowed, SCALE, layer=layer, tail=tail)
        made = class_cams(backbone, dense, [1, 1, 1], rows, bank, allowed, SCALE, whole=True, layer=layer)
        assert torch.equal(given, made)


def test_attention_beside_the_block_is_that_of_the_block_alone(backbone: ClipBackbone) -> None:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, plain = backbone.encode(images, 2, per_block=True), backbone.encode(images, 0)
    torch.testing.assert_close(found.last_input, plain.last_input, atol=1e-4, rtol=1e-4)
    assert plain.attention is None
    if backbone.tower.blocks:
        block = backbone.tower.blocks[-2]
        with torch.no_grad():
            x = torch.randn(2, 17, backbone.tower.width, generator=torch.Generator().manual_seed(1))
            z = backbone.tower.norm_in(block, x)
            y, weights = backbone.tower.from_norm_attended(block, z, x)
            torch.testing.assert_close(y, backbone.tower.from_norm(block, z, x), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(weights, backbone.tower.attention(block, z), atol=1e-6, rtol=0)


def test_gradients_in_half_give_the_maps_and_leave_embeddings_exact(
    backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures
) -> None:
    half = ClipBackbone(backbone.model, backbone.tokenizer, backbone.name, "bf16")
    tail = run_tail(half, dense.last_input)
    assert torch.equal(tail.embeddings, backbone.tail(dense.last_input))
    assert tail.way() is tail.way()  # run once, whatever number of classes asks
    allowed, rows = bank.allowed(LABELS), bank.rows([12, 15, 3])
    found = class_cams(half, dense, [1, 1, 1], rows, bank, allowed, SCALE, tail=tail)
    exact = class_cams(backbone, dense, [1, 1, 1], rows, bank, allowed, SCALE)
    assert (found - exact).abs().mean() < 0.02


def test_the_scale_is_applied_once(backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures) -> None:
    embeddings = backbone.tail(dense.last_input)
    log_p = bank.log_probabilities(embeddings, bank.allowed(LABELS), SCALE)
    rows = [*bank.rows(LABELS[0]), *range(20, 45)]
    expected = (SCALE * (bank.matrix[rows] @ embeddings[0])).log_softmax(dim=0)
    torch.testing.assert_close(log_p[0, rows], expected, atol=1e-4, rtol=1e-4)


def test_an_image_without_labels_gets_no_map(backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures) -> None:
    assert clip_response(backbone, dense, bank, [[], [], [], []]).spread.shape == (0, *dense.grid)
    assert clip_response(backbone, dense, bank, [[], [8], [], []]).pair_image == (1,)


def test_affinity_is_symmetric_nonnegative_and_scale_free() -> None:
    attention = torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
    affinity = attention_affinity(attention)
    assert torch.equal(affinity, affinity.transpose(1, 2))
    assert float(affinity.min()) >= 0
    torch.testing.assert_close(attention_affinity(attention * 7), affinity)
    squared = affinity @ affinity
    assert float((squared.sum(dim=-1) - 1).abs().max()) < 0.02
    first = attention[0] / attention[0].sum(dim=0)  # column sums come first
    first = first / first.sum(dim=1, keepdim=True)
    assert not torch.allclose(first, attention[0] / attention[0].sum(dim=1, keepdim=True))


def test_affinity_survives_an_empty_row() -> None:
    attention = torch.ones(1, 4, 4)
    attention[0, 2] = 0
    assert bool(torch.isfinite(attention_affinity(attention)).all())


def test_spread_equals_the_masked_square() -> None:
    generator = torch.Generator().manual_seed(5)
    affinity = attention_affinity(torch.rand(2, 20, 20, generator=generator))
    cams = torch.rand(3, 4, 5, generator=generator)
    boxes = (torch.rand(3, 4, 5, generator=generator) > 0.4).float()
    found = spread(affinity, cams * boxes, [0, 1, 1])
    for row, image in enumerate([0, 1, 1]):
        squared = affinity[image].double() @ affinity[image].double()
        slow = (squared * boxes[row].flatten()) @ cams[row].flatten().double()
        torch.testing.assert_close(found[row].double(), min_max(slow.reshape(1, 4, 5))[0], atol=1e-5, rtol=1e-5)


def opencv_boxes(cam: np.ndarray, threshold: float) -> np.ndarray:
    """The authors' way: contours of the thresholded map, clipped ends."""
    image = (cam * 255).astype(np.uint8)
    _, binary = cv2.threshold(image, int(threshold * int(image.max())), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(cam.shape, np.float32)
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        mask[y : min(y + h, cam.shape[0] - 1), x : min(x + w, cam.shape[1] - 1)] = 1
    return mask


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_boxes_equal_opencvs_contours(threshold: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        cam = cv2.resize(rng.random((5, 5)), (14, 12)).astype(np.float32)
        cam = (cam - cam.min()) / (cam.max() - cam.min())
        found = box_masks(torch.from_numpy(cam)[None], threshold)[0].numpy()
        np.testing.assert_array_equal(found, opencv_boxes(cam, threshold))


def test_box_edges_and_empty_maps() -> None:
    cam = torch.zeros(2, 4, 4)
    cam[0, 3, 3] = 1.0
    assert float(box_masks(cam, 0.4).sum()) == 0.0  # a blob in the last row and column only: the authors lose it
    assert float(box_masks(cam, 0.4, edge_fix=True).sum()) == 1.0
    assert float(box_masks(torch.ones(1, 4, 4), 0.4).sum()) == 9.0


def test_min_max_keeps_tiny_maps_and_zeroes_flat_ones() -> None:
    maps = torch.stack([torch.tensor([[0.0, 1e-20]]), torch.tensor([[0.3, 0.3]])])
    assert min_max(maps).tolist() == [[[0.0, 1.0]], [[0.0, 0.0]]]


def test_background_is_one_minus_the_best_class() -> None:
    maps = torch.tensor([[[0.2, 0.9]], [[0.5, 0.1]]])
    torch.testing.assert_close(with_background(maps)[0], torch.tensor([[0.5, 0.1]]))
    torch.testing.assert_close(with_background(maps, power=2)[0], torch.tensor([[0.25, 0.01]]))
    assert with_background(maps).shape == (3, 1, 2)


def test_affinity_is_three_rounds_of_columns_then_rows() -> None:
    attention = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.01
    wanted = attention[0]
    for _ in range(3):
        wanted = wanted / wanted.sum(dim=0)
        wanted = wanted / wanted.sum(dim=1, keepdim=True)
    torch.testing.assert_close(attention_affinity(attention)[0], (wanted + wanted.T) / 2, atol=1e-9, rtol=1e-9)


def test_patches_answer_by_themselves(backbone: ClipBackbone, bank: TextBank, dense: DenseFeatures) -> None:
    """One pair after another, in any order of images; mixed into the class maps before they are spread."""
    allowed, images, classes = bank.allowed(LABELS), [2, 1, 2], [13, 12, 1]
    found = patch_maps(backbone, dense, images, bank.rows(classes), bank, allowed, 20.0)
    for place, (image, class_id) in enumerate(zip(images, classes, strict=True)):
        embeddings = backbone.patch_embeddings(dense.last_input[image : image + 1])[0]
        rows = bank.rows(LABELS[image]) + list(range(20, 45))
        p = (20.0 * embeddings @ bank.matrix[rows].T).softmax(dim=-1)[:, LABELS[image].index(class_id)]
        torch.testing.assert_close(found[place], min_max(p.reshape(1, *dense.grid))[0], atol=1e-4, rtol=0)
    given = {"scale": 20.0, "box_threshold": None}
    plain = clip_response(backbone, dense, bank, LABELS, **given)  # type: ignore[arg-type]
    mixed = clip_response(backbone, dense, bank, LABELS, contrast=0.25, **given)  # type: ignore[arg-type]
    all_patches = patch_maps(
        backbone, dense, plain.pair_image, bank.rows(plain.pair_class), bank, bank.allowed(LABELS), 20.0
    )
    torch.testing.assert_close(mixed.cams, 0.75 * plain.cams + 0.25 * all_patches, atol=1e-4, rtol=0)
    assert not torch.allclose(mixed.spread, plain.spread, atol=1e-3)
