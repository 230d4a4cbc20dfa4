"""torchvision's Mask R-CNN behind the interface of instance segmenters; its classes are ignored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array, content_id, read_bytes
from maskmill.vision.instances.base import Detections, Float32, unit
from maskmill.vision.segmenters import PACKAGED_ENCODER, build_encoder, encoder_normalisation, weights_stamp
from maskmill.vision.video.masks import Boxes, MaskCrop
from maskmill.vision.video.region import Region, whole_frame
from maskmill.vision.weights import fitted, read_state, weight_file

ZOOM = 2  # how much finer a region is seen than the whole frame
MASK_RCNNS = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")


class MaskRcnn:
    """`InstanceSegmenter` over a torchvision detection model that answers boxes, scores and masks.

    Descriptors are empty: what its trunk sees is not asked for. Embeddings come from an ImageNet encoder.
    """

    def __init__(self, model: nn.Module, fingerprint: str, *, most: int = 20, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model, self.most, self.fingerprint = model.to(self.device).eval(), most, fingerprint
        self._encoder: nn.Module | None = None

    def detect(self, image: Uint8Array, region: Region | None = None) -> Detections:
        """Candidates of `region` (None: of the whole frame)."""
        region = region or whole_frame(image.shape[:2])
        cut = image[region.top : region.top + region.height, region.left : region.left + region.width]
        pixels = torch.from_numpy(cut.transpose(2, 0, 1).copy()).to(self.device) / 255
        with torch.inference_mode(), self._scaled_as(image.shape[:2], cut.shape[:2]):
            found: dict[str, Any] = self.model([pixels])[0]
        masks = [MaskCrop.of(m, region.top, region.left) for m in (found["masks"][: self.most, 0] > 0.5).cpu().numpy()]
        good = [i for i, mask in enumerate(masks) if mask.area]
        if not good:
            return Detections.none()
        scores = found["scores"][: self.most].cpu().numpy().astype(np.float32)[good]
        boxes = np.stack([masks[i].box for i in good])
        return Detections(boxes, scores, tuple(masks[i] for i in good), np.zeros((len(good), 0), np.float32))

    @contextmanager
    def _scaled_as(self, frame: tuple[int, ...], cut: tuple[int, ...]) -> Iterator[None]:
        """The crop at ZOOM times the scale of the whole frame, and never larger than the frame would be: torchvision
        would bring the short side of a crop of 80 pixels to 800, at the cost of the whole frame.
        """
        transform = getattr(self.model, "transform", None)
        if transform is None or cut == frame:
            yield
            return
        kept = transform.min_size
        scale = min(kept[-1] / min(frame), transform.max_size / max(frame))
        transform.min_size = (max(1, min(round(ZOOM * scale * min(cut)), kept[-1])),)
        try:
            yield
        finally:
            transform.min_size = kept

    def embed(self, image: Uint8Array, boxes: Sequence[Boxes] | Boxes) -> Float32:
        """Unit vectors of box patches: pooled features of the packaged ImageNet encoder."""
        if self._encoder is None:
            self._encoder = build_encoder(PACKAGED_ENCODER, out_indices=(3,)).eval().to(self.device)
        mean, std = (torch.tensor(v)[:, None, None] for v in encoder_normalisation(PACKAGED_ENCODER))
        vectors = []
        for box in boxes:
            x0, y0, x1, y1 = (max(0, int(v)) for v in box)
            patch = torch.from_numpy(image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].transpose(2, 0, 1).copy())
            square = F.interpolate(((patch / 255 - mean) / std)[None], (128, 128), mode="bilinear", align_corners=False)
            with torch.inference_mode():
                vectors.append(self._encoder(square.to(self.device))[0].mean((2, 3))[0].cpu().numpy())
        return unit(np.stack(vectors)) if vectors else np.zeros((0, 1), np.float32)


def load_mask_rcnn(name: str, weights: str = "hub", device: str = "cpu") -> MaskRcnn:
    """Mask R-CNN by torchvision's name. `weights`: hub = torchvision's download, random, a file of its state dict, or a
    folder that holds one.

    Raises:
        ValueError: unknown name; lists the valid ones. WeightsError: weights that do not fit, with counts and examples.
    """
    import torchvision.models.detection as zoo

    if name not in MASK_RCNNS:
        raise ValueError(f"segmenter {name!r}: expected one of {', '.join(MASK_RCNNS)}")
    if weights in ("hub", "random"):
        model = getattr(zoo, name)(weights="DEFAULT" if weights == "hub" else None, weights_backbone=None)
        return MaskRcnn(model, f"{name} {weights} zoom {ZOOM}", device=device)
    model = getattr(zoo, name)(weights=None, weights_backbone=None)
    path = weight_file(weights)
    model.load_state_dict(fitted(model.state_dict(), read_state(path), path), strict=False)
    known = f"{content_id(read_bytes(path))} {weights_stamp(PACKAGED_ENCODER, 'auto')}"
    return MaskRcnn(model, f"{name} {known} zoom {ZOOM}", device=device)
