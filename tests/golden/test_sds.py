"""SDS against numbers of its release: perturbed readings, gaps, class maps, ASF, what the dense CRF is given."""

from functools import cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from maskmill.curation.sds import SdsConfig, asf_score, make_engine, pseudo_label
from maskmill.curation.sds import model as sds_model
from maskmill.curation.sds.images import Prepared
from maskmill.curation.sds.model import Engine, Reading, read_samples
from maskmill.data_contracts import Uint8Array, load_label_space
from maskmill.vision.clip import ClipBackbone, attention_affinity, box_masks, clip_response, min_max, spread
from maskmill.vision.crf_options import CrfOptions, crf_backend
from maskmill.vision.refine import refine_many, wrapped_bgr
from tests.golden import bars, fill, golden, picture

torch.set_num_threads(1)

CASES = {"one": (8,), "two": (3, 15), "three": (1, 12, 20), "grey": (13,)}
NUMBERS = golden("sds", "pcs")
GAP = 1e-4  # of an entropy, in nats
CAM = 1e-4  # of a Grad-CAM in [0, 1]
MAP = 5e-4  # of a spread map in [0, 1]


@cache
def backbone(layers: int = 9) -> ClipBackbone:
    """The CLIP of the recordings: OpenAI's architecture, 128 wide, weights by formula, logit scale 100."""
    vision = {"image_size": 64, "layers": layers, "width": 128, "head_width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(64, vision, text, quick_gelu=True)
    model.load_state_dict(fill(model.state_dict(), gain=1.5))
    model.logit_scale.data.fill_(float(np.log(100.0)))
    positions = model.visual.positional_embedding.data
    positions[0] = positions[0].half().float()  # that of the class token; see conftest.py for the others
    model.visual.preprocess_cfg = {
        "size": 64,
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
    }
    return ClipBackbone(model, open_clip.get_tokenizer("ViT-B-16"), "by formula")


def image_of(name: str) -> Uint8Array:
    image = picture(f"sds {name}", 512, 512)
    return np.repeat(image[..., :1], 3, axis=2) if name == "grey" else image


def prepared(name: str) -> Prepared:
    image, mask = image_of(name), bars(CASES[name], 512, 512)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return Prepared(name, CASES[name], CASES[name], image, mask, pixels)


@cache
def engine(**options: Any) -> Engine:
    config = SdsConfig.model_validate({"preset": "faithful", "crf": {"backend": "mean_field"}, **options})
    return make_engine(config, load_label_space("voc"), backbone())


@cache
def reading(name: str, perturbation: str) -> Reading:
    order = NUMBERS[f"{perturbation}/{name}/order"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sds_model, "draw_orders", lambda *_: np.asarray(order)[None])
        return read_samples([prepared(name)], engine(perturbation=perturbation), 0)[0]


def test_texts_are_the_releases() -> None:
    """Prompt, class names, background words and their order, tokens, pooling: one unit row each."""
    bank = engine(perturbation="channels").bank
    np.testing.assert_allclose(bank.matrix.numpy(), NUMBERS["text"], atol=2e-6)


@pytest.mark.parametrize(
    ("name", "perturbation"), [*((name, "channels") for name in CASES), ("one", "tiles"), ("two", "tiles")]
)
def test_entropies_and_gap(name: str, perturbation: str) -> None:
    found, pre = reading(name, perturbation), f"{perturbation}/{name}"
    assert found.h_orig == pytest.approx(float(NUMBERS[f"{pre}/h_orig"]), abs=GAP)
    assert found.h_mix == pytest.approx(float(NUMBERS[f"{pre}/h_mix"]), abs=GAP)
    gap = abs(float(NUMBERS[f"{pre}/h_orig"]) - float(NUMBERS[f"{pre}/h_mix"]))
    assert found.pcs == pytest.approx(gap, abs=GAP)


def test_the_released_gate_lets_the_same_pass() -> None:
    kept = {name for name in CASES if reading(name, "channels").pcs > 0.1}
    released = {name for name in CASES if abs(_h(name, "orig") - _h(name, "mix")) > 0.1}
    assert kept == released == {"one", "two"}  # "three" drew the identity


def _h(name: str, which: str) -> float:
    return float(NUMBERS[f"channels/{name}/h_{which}"])


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_class_maps_and_their_spreading(name: str) -> None:
    """The Grad-CAM; then, from the release's own, boxes and affinity: a map is cut at whole 8-bit steps, where the last
    bits of a Grad-CAM decide over cells.
    """
    sample, own = prepared(name), engine(perturbation="channels")
    dense = own.backbone.encode(own.backbone.normalise(sample.pixels[None]), own.config.n_attention)
    response = clip_response(
        own.backbone, dense, own.bank, [sample.labels], scale=own.scale, box_threshold=own.box_threshold
    )
    cams = torch.from_numpy(NUMBERS[f"channels/{name}/cams"])
    np.testing.assert_allclose(response.cams.numpy(), cams.numpy(), atol=CAM)
    assert dense.attention is not None
    boxed = cams * box_masks(cams, own.box_threshold)
    found = spread(attention_affinity(dense.attention), boxed, [0] * len(cams))
    released = min_max(torch.from_numpy(NUMBERS[f"channels/{name}/refined"]))
    np.testing.assert_allclose(found.numpy(), released.numpy(), atol=MAP)
    assert (NUMBERS[f"channels/{name}/keys"] + 1).tolist() == list(CASES[name])


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_asf_is_the_pooled_overlap(name: str) -> None:
    numbers = golden("sds", "asf")
    ids = CASES[name]
    drawn = np.roll(bars(ids, 96, 128), 7, axis=1)
    drawn[60:80] = 255
    drawn[:10] = ids[0]
    found = asf_score(bars(ids, 96, 128), drawn, ids)
    assert found.pooled == pytest.approx(float(numbers[f"{name}/pooled"]), abs=1e-12)
    assert list(found.per_class) == numbers[f"{name}/classes"].tolist()
    np.testing.assert_allclose(list(found.per_class.values()), numbers[f"{name}/ious"], atol=1e-12)


def blobs() -> np.ndarray:
    y, x = np.mgrid[:96, :128]
    maps = [np.exp(-((x - (35 + 60 * k)) ** 2 / 900 + (y - 48) ** 2 / 700)) for k in range(2)]
    return np.stack(maps).astype(np.float16)


def test_the_crf_is_given_what_the_release_gives_it() -> None:
    """Its image wraps around; its unary is the stack with (1 - largest map) first; 10 steps, its widths."""
    numbers = golden("sds", "crf")
    image = picture("crf", 96, 128)
    np.testing.assert_array_equal(wrapped_bgr(image), numbers["image"])
    maps = blobs()
    stack = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps]).astype(np.float32)
    released = SdsConfig(preset="faithful").crf
    assert released == CrfOptions(backend="pydensecrf", image="wrapped_bgr")
    installed = crf_backend("auto")
    backend = CrfOptions(backend=installed, image="wrapped_bgr")
    (found,) = refine_many([(image, stack)], options=backend)
    label = pseudo_label(found, (8, 15), 0, 0.95)
    exact = installed == "pydensecrf"
    assert (label == numbers["label"]).mean() >= (1.0 if exact else 0.985)
    assert np.abs(found - numbers["q"].astype(np.float32)).mean() < (1e-3 if exact else 0.01)
