"""Groups asked whole, maps at their own size, first weights, what counts as object, and the parts of the starter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.trainers.dcfm import Config
from maskmill.trainers.dcfm.enhance import FeatureEnhancement
from maskmill.trainers.dcfm.losses import deep_loss
from maskmill.trainers.dcfm.model import RESPONSE_GAIN
from maskmill.trainers.dcfm.predict import GroupPredictor, enlarged_map, group_metrics, score_groups
from maskmill.trainers.dcfm.prototypes import mean_over_groups, self_contrast
from maskmill.trainers.dcfm.train import compute_losses, optimised
from maskmill.trainers.engine import DataConfig, PredictConfig, Samples
from maskmill.vision.segmenters import IMAGENET
from tests.trainers import shapes
from tests.trainers.test_dcfm import mates, network, pictures

torch.set_num_threads(1)


def predictor(**settings: object) -> GroupPredictor:
    model = network(**settings)
    where = PredictConfig(fit="squash", size=32)
    return GroupPredictor(model, shapes.SPACE, *IMAGENET, where, torch.device("cpu"), resize=model.config.test_resize)


def test_a_group_is_scored_whole_and_images_without_one_alone(tmp_path: Path) -> None:
    together = DataConfig(samples=(shapes.write_scenes(tmp_path / "a", 6, group_size=3),))
    alone = DataConfig(samples=(shapes.write_scenes(tmp_path / "b", 6),))
    asked: list[int] = []

    class Noting(GroupPredictor):
        def predict_group(self, images, config=None):  # type: ignore[no-untyped-def]
            asked.append(len(images))
            return super().predict_group(images, config)

    one = predictor()
    noting = Noting(one.model, one.space, one.mean, one.std, one.config, one.device)
    scores = [score_groups(noting, Samples.open(data, str(tmp_path / "cache"))) for data in (together, alone)]
    assert asked == [3, 3, 1, 1, 1, 1, 1, 1]
    assert scores[0]["images"] == scores[1]["images"] == 6
    assert scores[0] != scores[1]
    each = group_metrics(noting, Samples.open(together, str(tmp_path / "cache"))).each()
    assert np.mean(each["mae"]) == pytest.approx(scores[0]["mae"])
    assert np.mean(each["s"]) == pytest.approx(scores[0]["s"])


def test_maps_and_logits_are_two_ways_to_an_image_s_size() -> None:
    images = [shapes.draw_scene(n, 40, 56)[0] for n in range(2)]
    logits, maps = (predictor(test_resize=how).predict_group(images) for how in ("logits", "maps"))
    assert [m.logits.shape for m in maps] == [(40, 56)] * 2
    assert np.abs(maps[0].saliency - logits[0].saliency).max() > 1e-6
    assert np.abs(maps[0].saliency - logits[0].saliency).max() < 0.5
    assert Config().test_resize == "logits"
    far = enlarged_map(torch.tensor([[[-90.0, 90.0]]]), (1, 2), (1, 2))
    assert np.isfinite(far).all()
    assert far[0, 0] < -20
    ends = enlarged_map(torch.tensor([[[-2.0, 2.0]]]), (1, 2), (1, 3))
    np.testing.assert_allclose(ends, [[-2, 0, 2]], atol=1e-5)


def test_arms_begin_alike_in_all_that_they_share() -> None:
    states = {parts: network(parts=parts).state_dict() for parts in ("plain", "dpg", "dcfm")}
    for other in ("plain", "dpg"):
        for key, value in states[other].items():
            if states["dcfm"][key].shape == value.shape:
                assert torch.equal(value, states["dcfm"][key]), key
    weight = states["plain"]["decoder.laterals.0.0.weight"]
    fan_in = weight[0].numel()
    assert float(weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)
    assert not states["plain"]["decoder.laterals.0.0.bias"].any()


def test_the_encoder_s_group_has_its_own_rate() -> None:
    model = network()
    encoder, rest = optimised(model, 0.1)
    assert (encoder.lr_factor, rest.lr_factor) == (0.1, 1.0)
    trained = {id(p) for p in model.encoder.parameters() if p.requires_grad}
    assert {id(p) for p in encoder.params} == trained
    assert not trained & {id(p) for p in rest.params}


def test_losses_are_weighed_and_open_pixels_and_lost_objects_count_for_nothing() -> None:
    model = network(response_weight=0.5, scl_weight=0.3).train()
    group = mates(0, 0, 0)
    mask = torch.zeros(3, 32, 32, dtype=torch.long)
    mask[0, 4:20, 4:20], mask[1, 4:20, 4:20] = 1, 2  # any class is object; the third image has none
    features = model.encode(pictures(3))
    output = model.decode(features, group)
    found = compute_losses(model.config, model, features, output, mask, 0, group)
    whole = found["iou"] + 0.5 * found["response"] + 0.3 * found["scl"]
    assert float(found["loss"].detach()) == pytest.approx(float(whole.detach()))
    assert output.mined is not None
    response, target = output.mined.response.detach(), (mask != 0).float()[:, None]
    small = torch.nn.functional.adaptive_avg_pool2d(target, (response.shape[2], response.shape[3]))
    terms = [
        1 - float((r * t).sum() / (r.sum() + t.sum() - (r * t).sum() + 1e-5))
        for r, t in zip(response, small, strict=True)
    ]
    assert float(found["response"].detach()) == pytest.approx((terms[0] + terms[1]) / 3, rel=1e-4)
    hidden = mask.clone()
    hidden[:, 25:] = 255
    again = compute_losses(model.config, model, features, output, hidden, 0, group)
    shown = (hidden != 255).float()[:, None]
    expected = deep_loss(output.logits, target * shown, shown)
    assert float(again["iou"].detach()) == pytest.approx(float(expected.detach()))
    assert float(again["iou"].detach()) != float(found["iou"].detach())


def test_the_decoder_sees_the_response_around_0() -> None:
    model = network().eval()
    seen: list[torch.Tensor] = []
    model.decoder.top.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        output = model(pictures(2), mates(0, 0))
    assert output.mined is not None
    torch.testing.assert_close(seen[0][:, -1:], 8.0 * (output.mined.response - 0.5))
    assert RESPONSE_GAIN == 8


def test_cosines_of_self_contrast_are_damped_as_in_the_release() -> None:
    tiny = torch.full((1, 4), 1e-3)
    group = mates(0)
    found = self_contrast(tiny, tiny, -tiny, group)
    damped = 4e-6 / (4e-6 + 1e-5)
    near, far = (1 + damped) / 2, (1 - damped) / 2
    expected = -np.log(near + 1e-5) - np.log(1 - far + 1e-5)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    values = torch.tensor([1.0, 3.0, 10.0])
    assert float(mean_over_groups(values, mates(0, 0, 1))) == pytest.approx((2 + 10) / 2)


def test_epochs_of_groups() -> None:
    assert Config(epochs=2, batch=3).with_steps(samples=50, groups=7).steps == 5


def test_normalised_rows_of_links_sum_to_1_and_raw_ones_do_not() -> None:
    """Values that are 2 everywhere come out as twice the sum of a row of links, whose logits are positive here."""
    x = 1 + torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for rows in ("normalised", "raw"):
        module: Any = FeatureEnhancement(4, rows)
        for layer in (module.entry, *module.query, *module.key):
            torch.nn.init.dirac_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        torch.nn.init.zeros_(module.value[1].weight)
        torch.nn.init.constant_(module.value[1].bias, 2.0)
        sums = (module(x) - x) / 2
        if rows == "normalised":
            torch.testing.assert_close(sums, torch.ones_like(sums))
        else:
            assert float(sums.min()) > 1.5
