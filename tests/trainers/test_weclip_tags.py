"""What CLIP says beside WeCLIP's decoder: the head that finds tags, its loss, what both do to the answer, and that a
trained head comes back.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, read_artifact
from maskmill.trainers.registry import load_artifact
from maskmill.trainers.weclip import Config
from maskmill.trainers.weclip.decoder import Decoded, affinity_logits
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.tags import FLOOR, GAIN, TagHead, Witness, call_witness, tag_loss
from maskmill.vision.clip import DenseFeatures, build_text_bank
from tests.trainers import shapes
from tests.trainers.test_weclip import SMALL

torch.set_num_threads(1)


def opened(**settings: Any) -> tuple[Weclip, PseudoLabeler]:
    """A model with what its settings want beside the decoder."""
    config = Config.model_validate({**SMALL, "temperature": 0.05, **settings})
    torch.manual_seed(0)
    model = Weclip(config, shapes.SPACE.size, torch.device("cpu")).eval()
    labeler = PseudoLabeler(model, build_text_bank(shapes.SPACE, model.backbone), shapes.SPACE, config)
    call_witness(model, labeler)
    return model, labeler


def read(model: Weclip, count: int = 2) -> tuple[torch.Tensor, DenseFeatures, Decoded]:
    scenes = [shapes.draw_scene(number, 64, 64)[0] for number in range(count)]
    images = model.normalisation(torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2))
    dense = model.encode(images, 8)
    with torch.no_grad():
        return images, dense, model.decode(dense, images)


def test_nothing_is_added_unless_it_is_asked_for() -> None:
    model, _ = opened()
    assert (model.tags, model.witness) == (None, None)
    assert list(model.modules_by_name) == ["decoder"]


def test_the_head_begins_as_clips_own_answer() -> None:
    model, labeler = opened(tag_weight=1.0, test_tags=1.0)
    assert isinstance(model.tags, TagHead)
    _, dense, _ = read(model)
    embeddings = model.backbone.tail(dense.last_input)
    classes = labeler.bank.matrix[:3]
    wanted = (20 * embeddings @ classes.T).log_softmax(dim=1)
    torch.testing.assert_close(model.tags(embeddings), wanted)
    torch.testing.assert_close(Witness(labeler, None).log_p(dense), wanted)
    with torch.no_grad():
        model.tags.own.bias.copy_(torch.tensor([0.0, 0.3, 0.0]))
    moved = (20 * embeddings @ classes.T + GAIN * torch.tensor([0.0, 0.3, 0.0])).log_softmax(dim=1)
    torch.testing.assert_close(Witness(labeler, model.tags).log_p(dense), moved)


def test_tags_share_the_mass_of_their_image() -> None:
    log_p = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    wanted = (-(np.log(0.5) + np.log(0.25)) / 2 - np.log(0.6)) / 2
    assert float(tag_loss(log_p, [[0, 1], [], [2]])) == pytest.approx(wanted, abs=1e-6)
    assert float(tag_loss(log_p, [[], [], []])) == 0


def test_unlikely_classes_lose_their_logits_and_the_likeliest_keeps_them() -> None:
    model, labeler = opened(test_tags=0.5)
    images, dense, decoded = read(model)
    log_p = Witness(labeler, None).log_p(dense)
    with torch.no_grad():
        moved = model(images) - decoded.logits
    torch.testing.assert_close(moved[:, 0], torch.zeros_like(moved[:, 0]))
    lead = 0.5 * (log_p - log_p.amax(dim=1, keepdim=True))
    torch.testing.assert_close(moved[:, 1:], lead[:, :, None, None].expand_as(moved[:, 1:]), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(images, [[1], [2]]), decoded.logits)


@pytest.mark.parametrize("told", [None, [(2, 1), (3,)]])
def test_class_maps_have_their_share_of_the_answer(told: list[tuple[int, ...]] | None) -> None:
    model, labeler = opened(test_maps=0.25)
    images, dense, decoded = read(model)
    with torch.no_grad():
        found = model(images, told)
    p = Witness(labeler, None).log_p(dense).exp()
    likely = [tuple(k + 1 for k in range(3) if p[image, k] >= 0.3 * p[image].max()) for image in range(2)]
    shown = told or likely
    for image, ids in enumerate(shown):
        one = DenseFeatures(
            dense.last_input[image : image + 1],
            None,
            dense.grid,
            dense.prefix,
            tuple(x[image : image + 1] for x in dense.block_outputs),
            tuple(x[image : image + 1] for x in dense.block_attention),
        )
        response, _ = labeler.maps(one, [sorted(ids)], affinity_logits(decoded.features[image : image + 1]))
        stack = torch.zeros(4, *dense.grid)
        stack[sorted(ids)] = response.spread
        stack[0] = (1 - stack.amax(dim=0)) ** 1.5
        share = (stack / stack.sum(dim=0)).clamp_min(FLOOR).log()
        wanted = 0.75 * decoded.logits[image].log_softmax(dim=0) + 0.25 * share
        torch.testing.assert_close(found[image], wanted, atol=2e-3, rtol=1e-3)


def test_a_trained_head_comes_back_and_knows_its_scenes(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "scenes", 4),))
    settings = {**SMALL, "steps": 6, "batch": 4, "tag_weight": 1.0, "test_tags": 1.0, "test_maps": 0.5, "lr": 0.01}
    config = TrainConfig(trainer="weclip", label_space=shapes.SPACE, data=data, settings=settings)
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["tags"] for line in lines if "tags" in line]
    assert losses[-1] < losses[0]
    first = next(line for line in lines if "tags" in line)
    terms = first["segmentation"] + 0.1 * first["affinity"] + first["tags"]
    assert first["loss"] == pytest.approx(terms, rel=1e-4)
    stored = read_artifact(path).tensors
    assert bool(stored["module/tags/own.weight"].any())
    predictor = load_artifact(path, "cpu")
    assert torch.equal(predictor.model.tags.own.weight, stored["module/tags/own.weight"])
    image = shapes.draw_scene(3, 64, 80)[0]
    (free,), (told,) = predictor.predict([image]), predictor.predict_told([image], [(2,)])
    assert free.logits.shape == told.logits.shape == (4, 64, 80)
    assert set(np.unique(told.labels).tolist()) <= {0, 2}
