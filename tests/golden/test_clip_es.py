"""CLIP-ES against numbers of its release: the side of the input (rounded up), resampling, class maps, what is saved."""

import cv2
import numpy as np
import torch

from maskmill.data_contracts import load_label_space
from maskmill.labelers.clip_cam import ClipCam, Config
from maskmill.vision.clip import attention_affinity, box_masks, build_text_bank, min_max, spread
from tests.golden import golden, picture
from tests.golden.test_sds import backbone

NUMBERS = golden("clip_es", "cam")

torch.set_num_threads(1)


def labeler() -> ClipCam:
    space = load_label_space("voc")
    config = Config(preset="faithful")
    return ClipCam(config, space, backbone(), build_text_bank(space, backbone()), batch=1)


def test_input_of_a_voc_photo() -> None:
    """500 x 375 becomes 512 x 384, bicubic by Pillow, CLIP's normalisation."""
    pixels = labeler().resize(picture("clip-es", 375, 500))
    assert tuple(pixels.shape[1:]) == tuple(NUMBERS["size"].tolist()) == (384, 512)
    normalised = backbone().normalise(pixels[None])[0, :, 7::32, 9::32]
    np.testing.assert_allclose(normalised.numpy(), NUMBERS["input"], atol=1e-5)


def test_class_maps_and_what_is_saved() -> None:
    engine = labeler()
    pixels = engine.resize(picture("clip-es", 375, 500))[None]
    shown, response = engine.respond(pixels, [(3, 15)])
    assert shown == [(3, 15)]
    assert (NUMBERS["keys"] + 1).tolist() == [3, 15]
    np.testing.assert_allclose(response.cams.numpy(), NUMBERS["cams"], atol=1e-4)
    cams = torch.from_numpy(NUMBERS["cams"])  # as for SDS: the last bits of a Grad-CAM decide over cells of its boxes
    dense = backbone().encode(backbone().normalise(pixels), engine.config.n_attention)
    assert dense.attention is not None
    found = spread(attention_affinity(dense.attention), cams * box_masks(cams, 0.4), [0, 0])
    np.testing.assert_allclose(found.numpy(), min_max(torch.from_numpy(NUMBERS["refined"])).numpy(), atol=5e-4)
    full = np.stack([cv2.resize(m, (500, 375), interpolation=cv2.INTER_LINEAR) for m in found.numpy()])
    np.testing.assert_allclose(full[:, 3::12, 5::12], NUMBERS["highres"].astype(np.float32), atol=2e-3)  # saved as half


RELEASED = {  # constants of generate_cams_voc12.py and eval_cam_with_crf.py, by our names
    "preset": "faithful",
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "precision": "fp32",
    "templates": ("a clean origami {}.",),
    "synonyms": False,
    "image_side": None,
    "rounding": "up",
    "temperature": None,
    "cam_layer": "norm",
    "contrast": 0.0,  # ours
    "affinity": True,
    "n_attention": 8,
    "box_threshold": None,  # the label space's: VOC 0.4, COCO 0.7
    "edge_fix": False,
    "background_power": 1.0,
    "refine": "crf",
    "refiner": None,
    "refine_side": 1024,  # ours; no VOC or COCO photo is larger
    "par_iterations": 10,  # not used
    "crf_iterations": 10,
    "crf": {
        "iterations": 10,
        "gaussian_sxy": 1,
        "gaussian_weight": 3,
        "bilateral_sxy": 67,
        "bilateral_srgb": 3,
        "bilateral_weight": 4,
        "backend": "pydensecrf",
        "image": "wrapped_bgr",
    },
    "confidence": 0.95,
    "min_decided": 0.0,
    "find_tags": "missing",  # no photo of VOC or COCO is
    "tag_threshold": 0.1,  # not used
    "batch": None,
}


def test_preset_as_a_whole_table() -> None:
    assert Config(preset="faithful").model_dump() == RELEASED
    assert (load_label_space("voc").cam_box_threshold, load_label_space("coco").cam_box_threshold) == (0.4, 0.7)
