"""few_shot, piece by piece: what enters a merge, what matching weighs, which seed, which fusion, which view."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.base import MatchingDecoder, PyramidDecoder, distillation_loss, masked_mean
from maskmill.trainers.few_shot.base.hdmnet import Matching
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.predict import FewShotPredictor
from maskmill.trainers.few_shot.priors import product_with_text, refine, resize_nearest
from maskmill.trainers.few_shot.source import EpisodeSource
from maskmill.trainers.few_shot.train import featurizer_of, measure, training_episodes
from maskmill.trainers.registry import load_artifact
from tests.trainers import shapes
from tests.trainers.test_few_shot import PRIORS, run, support
from tests.trainers.test_few_shot_scl import disc, noise

torch.set_num_threads(1)
module = importlib.import_module("maskmill.trainers.few_shot.train")  # the package's `train` is the function
SMALL: dict[str, Any] = {
    "size": 64,
    "width": 8,
    "scales": [1.0],
    "encoder": "test_efficientnet",
    "encoder_weights": "random",
    "episodes": {"held_out": (), "min_share": 0.0},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 12),))


def seen_by(layer: torch.nn.Module) -> list[Tensor]:
    """What a layer is given, call by call."""
    given: list[Tensor] = []
    layer.register_forward_hook(lambda _, inputs, __: given.append(inputs[0].detach()))
    return given


def test_what_enters_the_light_matching_decoder() -> None:
    """The query beside the mean of all supports and ten times the priors; each support beside that mean."""
    built = MatchingDecoder(8, 2, width=16).eval()
    query, supports = seen_by(built.query_merge), seen_by(built.support_merge)
    maps, mask, priors = [noise(1, 8, 8, 8, seed=i) for i in range(3)], disc(1), noise(1, 2, 8, 8, seed=9)
    mean = masked_mean(maps[1], mask)
    built(maps[0], maps[1:], [mask, mask], mean, priors)
    tiled = mean.expand(-1, -1, 8, 8)
    torch.testing.assert_close(query[0], torch.cat([maps[0], tiled, 10 * priors], dim=1))
    assert all(torch.equal(s, torch.cat([m, tiled], dim=1)) for s, m in zip(supports, maps[1:], strict=True))


def test_coarser_stages_reach_the_answer() -> None:
    torch.manual_seed(0)
    built = MatchingDecoder(8, 0, width=16).eval()
    maps, mask = [noise(1, 8, 8, 8, seed=i) for i in range(2)], disc(1)
    given = (maps[0], maps[1:], [mask], masked_mean(maps[1], mask), maps[0][:, :0])
    before = built(*given).logits
    with torch.no_grad():
        built.parse[2][0][0].weight.mul_(3)  # type: ignore[index]
    assert not torch.allclose(built(*given).logits, before)


def test_matching_by_hand() -> None:
    """Two heads, cosine over 0.1, a softmax over the query, the support's background at nought."""
    torch.manual_seed(0)
    layer = Matching(8)
    query, support, mask = noise(1, 8, 3, 3), noise(1, 8, 3, 3, seed=1), (noise(1, 1, 3, 3, seed=2) > 0).float()
    with torch.no_grad():
        found, correlation = layer(query, support, mask)
        q, k, v = (
            conv(x)[0].flatten(1) for conv, x in ((layer.query, query), (layer.key, support), (layer.value, support))
        )
    wanted, shares = [], []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        cosine = F.normalize(q[rows], dim=0).T @ F.normalize(k[rows], dim=0)
        weights = (cosine / 0.1).softmax(dim=0) * mask.flatten()
        wanted.append((weights @ v[rows].T).T)
        shares.append((cosine * mask.flatten()).sum(dim=1) / (mask.sum() + 1e-7))
    torch.testing.assert_close(found[0].flatten(1), torch.cat(wanted))
    torch.testing.assert_close(correlation[0].flatten(), (shares[0] + shares[1]) / 2)


def test_a_teacher_learns_nothing_from_its_pupil() -> None:
    target = (noise(2, 16, 16) > 0).long()
    coarse, fine = (noise(2, s, s, seed=s).requires_grad_() for s in (4, 8))
    (alone,) = torch.autograd.grad(distillation_loss([coarse], target), coarse)
    (beside,) = torch.autograd.grad(distillation_loss([coarse, fine], target), coarse)
    torch.testing.assert_close(2 * beside, alone)


def test_the_prior_is_enlarged_before_the_merge() -> None:
    built = PyramidDecoder(8, 1, 1, (1.0,), prior_gain=5.0).eval()
    given = seen_by(built.query_merge[0])
    prior = noise(1, 1, 8, 8)
    built(noise(1, 8, 8, 8, seed=1), (noise(1, 8, 1, 1, seed=2),), prior)
    torch.testing.assert_close(given[0][:, -1:], 5 * prior)


def test_a_peak_below_the_bar_lets_more_into_the_boxes() -> None:
    """0.4 of 254 is 101, of 255 it is 102: a cell of 102 is inside with the one, outside with the other."""
    cam = torch.zeros(6, 6)
    cam[1, 1], cam[4, 4] = 1.0, 102.2 / 255
    attention = torch.eye(36)
    lower, upper = (refine(attention, cam, box_threshold=0.4, edge_fix=True, box_peak=peak) for peak in (254, 255))
    assert lower[4, 4] > 0
    assert upper[4, 4] == 0
    assert lower[1, 1] == upper[1, 1] == 1


def network(**settings: Any) -> FewShotNet:
    torch.manual_seed(0)
    config = Config.model_validate({**SMALL, "prior": "none", **settings})
    return FewShotNet(config, 12, 0).eval()


def test_each_side_has_its_reduction_and_shots_their_mean() -> None:
    net = network()
    assert net.down_query[2].p == net.config.dropout == 0.1
    assert network(dropout=0.3).down_support[2].p == 0.3
    given = seen_by(net.decoder.query_merge[0])  # type: ignore[union-attr, index]
    query, supports, masks = (
        noise(1, 12, 8, 8),
        noise(1, 3, 12, 8, 8, seed=1),
        disc(1)[:, None].expand(-1, 3, -1, -1, -1),
    )
    with torch.no_grad():
        net(query, supports, masks, query[:, :0])
        means = [masked_mean(net.down_support(s), disc(1)) for s in supports.unbind(1)]
        reduced = net.down_query(query)
    torch.testing.assert_close(given[0][:, :8], reduced)
    torch.testing.assert_close(given[0][:, 8:, 0, 0], torch.stack(means).mean(dim=0)[..., 0, 0])


@pytest.mark.parametrize(("start", "seed", "called"), [("by_name", 7, [7]), ("by_name", None, [3]), ("drawn", 7, [])])
def test_first_weights_by_name(
    tmp_path: Path, scenes: DataConfig, monkeypatch: pytest.MonkeyPatch, start: str, seed: int | None, called: list[int]
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(module, "start_by_name", lambda net, seed: seeds.append(seed))
    run(tmp_path, scenes, prior="none", steps=1, seed=3, start=start, start_seed=seed)
    assert seeds == called


def test_measures_are_those_of_weighed_supports(monkeypatch: pytest.MonkeyPatch, scenes: DataConfig) -> None:
    class Found:
        def __init__(self, value: float) -> None:
            self.value = value

        def compute(self, classes: Any) -> dict[str, Any]:
            return {"miou": self.value, "fbiou": self.value, "iou": {1: self.value}}

    class Predictor:
        space = shapes.SPACE

        def evaluate(self, samples: Any, episodes: Any) -> dict[str, Found]:
            return {"cross": Found(0.25 * len(episodes)), "mean": Found(0.1)}

    drawn: list[int] = []
    monkeypatch.setattr(module, "test_episodes", lambda *given: (drawn.append(given[-1]), ([0] * len(drawn), (1,)))[1])
    config = Config.model_validate({**SMALL, "test_seeds": (5, 9)})
    found = measure(Predictor(), None, config)  # type: ignore[arg-type]
    assert drawn == [5, 9]
    assert found["seeds"] == [0.25, 0.5]
    assert (found["miou"], found["fbiou"]) == (0.375, 0.375)
    assert list(found["iou"].values()) == [0.375]


def test_answers_come_by_way_of_the_canvas_where_asked() -> None:
    image, mask = shapes.draw_scene(3)
    object_ = (mask == mask[(mask > 0) & (mask < 255)][0]).astype(np.uint8)
    found = []
    for canvas in (True, False):
        config = Config.model_validate({**SMALL, "size": 60, "prior": "none", "canvas_logits": canvas})
        made = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
        torch.manual_seed(0)
        predictor = FewShotPredictor(FewShotNet(config, made.channels, 0), made, shapes.SPACE)
        found.append(predictor.predict([image], predictor.supports([(image, object_)], "x"))[0].logits)
    assert np.abs(found[0] - found[1]).max() > 1e-6, "two resamplings are not one"
    np.testing.assert_allclose(*found, atol=0.1)


def test_steps_draw_other_episodes_and_views_other_flips(tmp_path: Path, scenes: DataConfig) -> None:
    """Mirrored features come with mirrored targets, each image by itself."""
    config = Config.model_validate(
        {**SMALL, "prior": "none", "batch": 4, "target_stride": 1, "shots": 2, "test_shots": 2}
    )
    samples = Samples.open(scenes, str(tmp_path))
    made = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
    source = EpisodeSource(samples, training_episodes(samples, shapes.SPACE, config), made)
    assert source(0)["sample_id"] != source(1)["sample_id"]
    where = {sample_id: place for place, sample_id in enumerate(samples.ids)}
    turned = set()
    for episode in source.episodes.take(8):
        item = source.item(episode)
        for number, sample_id in enumerate(episode.supports):
            plain = made.image(samples.example(where[sample_id]).image, sample_id).middle
            kept, mirrored = (torch.equal(item["supports"][number], maps) for maps in (plain, plain.flip(-1)))
            assert kept != mirrored
            whole = source._whole(sample_id, episode.class_id).target
            assert torch.equal(item["support_target"][number], whole if kept else whole.flip(-1))
            turned.add((number, kept))
        plain = made.image(samples.example(where[episode.query]).image, episode.query).middle
        query_kept = torch.equal(item["query"], plain)
        turned.add(
            (
                -1,
                query_kept,
                torch.equal(
                    item["supports"][0],
                    made.image(samples.example(where[episode.supports[0]]).image, episode.supports[0]).middle,
                ),
            )
        )
    assert {(0, True), (0, False), (1, True), (1, False)} <= turned
    assert len([one for one in turned if one[0] == -1]) >= 3, "query and support are not mirrored together"


@pytest.mark.parametrize("shots", ["mean", "concat"])
def test_the_product_channels_hear_the_text_at_the_decoders_grid(shots: str) -> None:
    """With `product_text`; all other channels stay as they are."""
    image, mask = shapes.draw_scene(3)
    objects = [(mask == value).astype(np.uint8) for value in np.unique(mask[(mask > 0) & (mask < 255)])[:2]]
    found, count = [], 2 if shots == "concat" else 1
    for with_text in (False, True):
        priors = {**PRIORS, "product_blocks": 2, "product_text": with_text, "shots": shots}
        given = {**SMALL, "prior": "pi_clip", "priors": priors, "shots": 2, "test_shots": 2}
        made = featurizer_of(Config.model_validate(given), shapes.SPACE, torch.device("cpu"))
        query = made.image(shapes.draw_scene(5)[0])
        found.append(made.priors(query, [made.shot(image, one) for one in objects], 2))
    plain, joint = found
    assert plain.shape == joint.shape
    assert len(plain) == made.config.prior_channels
    visual = len(plain) - made.config.text_channels
    expected = product_with_text(plain[visual - count : visual], plain[-1])
    torch.testing.assert_close(joint[visual - count : visual], expected)
    assert not torch.allclose(joint[visual - count : visual], plain[visual - count : visual])
    others = [*range(visual - count), *range(visual, len(plain))]
    torch.testing.assert_close(joint[others], plain[others])


def test_an_object_is_cut_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image with a key; another mask, and an image without a key, are seen anew."""
    image, mask = shapes.draw_scene(3)
    objects = [(mask == value).astype(np.uint8) for value in np.unique(mask[(mask > 0) & (mask < 255)])[:2]]
    given = {**SMALL, "prior": "pi_clip", "priors": {**PRIORS, "mask_image": True}, "mask_support": True}
    made = featurizer_of(Config.model_validate(given), shapes.SPACE, torch.device("cpu"))
    seen: list[str] = []
    levels, encode = made._levels, made.clip.encode  # type: ignore[union-attr]
    monkeypatch.setattr(made, "_levels", lambda *a: (seen.append("levels"), levels(*a))[1])
    monkeypatch.setattr(made.clip, "encode", lambda *a, **k: (seen.append("clip"), encode(*a, **k))[1])
    first = made.shot(image, objects[0], "an object is cut out once")
    seen.clear()
    again = made.shot(image, objects[0], "an object is cut out once")
    assert not seen
    assert again.features.clip is first.features.clip
    made.shot(image, 1 - objects[0], "an object is cut out once")
    assert seen == ["levels", "clip"]
    seen.clear()
    bare = made.shot(image, objects[0])
    assert sorted(seen) == ["clip", "clip", "levels", "levels"]
    assert torch.equal(bare.features.middle, first.features.middle)


def test_random_views_have_their_colours(tmp_path: Path, scenes: DataConfig) -> None:
    given = {**SMALL, "prior": "none", "cached": False, "augment": {"size": 64, "fit": "squash", "flip": 0.0}}
    samples = Samples.open(scenes, str(tmp_path))
    queries = []
    for grey in (0.0, 1.0):
        config = Config.model_validate({**given, "augment": {**given["augment"], "grey": grey}})
        made = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
        source = EpisodeSource(samples, training_episodes(samples, shapes.SPACE, config), made)
        queries.append(source.item(source.episodes.episode(0))["query"])
    assert not torch.allclose(*queries)


def test_masks_from_the_canvas_reach_matching(tmp_path: Path, scenes: DataConfig) -> None:
    """Nearest neighbour from the canvas to the stages, in training and at test time."""
    given: dict[str, Any] = {"base": "hdmnet_released", "prior": "plain", "width": 16, "shots": 2, "test_shots": 2}
    path = run(tmp_path, scenes, canvas_masks=True, **given)
    predictor = load_artifact(path, "cpu")
    decoder, seen = predictor.net.decoder, []
    match = decoder.match
    decoder.match = lambda merged, shown, masks, priors: (seen.append(masks), match(merged, shown, masks, priors))[1]
    pairs = [support(2), support(5)]
    shown = predictor.supports(pairs, "blue bar")
    predictor.predict([shapes.draw_scene(3)[0]], shown)
    side = predictor.featurizer.config.size
    for found, (_, mask) in zip(seen[0], pairs, strict=True):
        wanted = resize_nearest((mask == 1).astype(np.uint8), (side, side))
        assert torch.equal(found, torch.from_numpy(wanted).float()[None, None])
    assert shown.shots[0].mask.shape == (side, side)
    config = predictor.net.config
    samples = Samples.open(scenes, str(tmp_path))
    source = EpisodeSource(samples, training_episodes(samples, shapes.SPACE, config), predictor.featurizer)
    batch = source(0)
    assert batch["canvases"].shape == (config.batch, 2, 1, side, side)
    target = (batch["support_target"] == 1).float()
    at_target = torch.nn.functional.interpolate(batch["canvases"][:, :, 0], target.shape[-2:], mode="nearest")
    assert float((at_target != target).float().mean()) < 0.05, "flipped as its image"
    seen.clear()
    module.episode_loss(predictor.net, batch, config)
    assert torch.equal(torch.stack(seen[0], dim=1), batch["canvases"])
    with pytest.raises(ValueError, match="canvas_masks: is for base: hdmnet_released"):
        Config(canvas_masks=True)
