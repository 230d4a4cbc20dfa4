"""The judge of drawn pictures: one encoder, a segmenter of objects and a classifier head, trained on real renders of
the drawn world's known styles alone.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, load_label_space
from maskmill.starter.drawn.drawings import KNOWN_STYLES
from maskmill.starter.drawn.scenes import Scene, SceneConfig, render_scene
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter

VOC = load_label_space("voc")
INPUT = 96  # the judge looks at enlarged pictures
BATCH, RATE = 16, 1e-3


def real_scene(index: int, seed: int) -> Scene:
    """A real render with one or two objects, of the sizes that prompts for one object give."""
    config = SceneConfig(
        styles=KNOWN_STYLES, max_objects=1 + index % 2, min_length=0.45, max_length=0.95, noise=1.0, seed=seed
    )
    return render_scene(config, index)


def to_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (B, H, W, 3) to the judge's input (B, 3, 96, 96), ImageNet-normalised."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (values - mean[:, None, None]) / std[:, None, None]
    return F.interpolate(normal, size=(INPUT, INPUT), mode="bilinear", align_corners=False)


def soften(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur half of the batches by shrinking and enlarging them: a generator's pictures are softer than renders."""
    if rng.random() < 0.5:
        return batch
    size = int(rng.integers(INPUT // 4, INPUT))
    small = F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, size=(INPUT, INPUT), mode="bilinear", align_corners=False)


def build_judge() -> Any:
    """U-Net over EfficientNet-Lite0 that finds objects, with a classifier head on the encoder."""
    options = {"decoder_channels": [64, 48, 32, 16, 16], "aux_params": {"classes": VOC.size, "pooling": "avg"}}
    return build_segmenter(SegmenterConfig(options=options), 2)


def train_judge(steps: int, path: Path, seed: int = 0) -> Any:
    """The judge, trained on renders; kept at `path`, so that a cut-off benchmark does not train it twice."""
    torch.manual_seed(seed)
    judge = build_judge()
    if path.is_file():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=1e-3)
    for step in range(steps):
        scenes = [real_scene(step * BATCH + i, seed=1000 + seed) for i in range(BATCH)]
        masks = torch.from_numpy(np.stack([s.mask for s in scenes])).long()
        present = F.one_hot(masks, VOC.size).amax(dim=(1, 2)).float()[:, 1:]
        rng = np.random.default_rng((seed, step))
        logits, labels = judge(soften(to_input(np.stack([s.image for s in scenes])), rng))
        small = F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)
        named = present / present.sum(dim=1, keepdim=True).clamp_min(1)
        loss = F.cross_entropy(small, (masks > 0).long()) + F.cross_entropy(labels[:, 1:], named)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    torch.save(judge.state_dict(), path)
    print(f"judge: {steps} steps of {BATCH} renders")
    return judge.eval()


@torch.no_grad()
def verdicts(judge: Any, images: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each image the class seen (argmax of the classifier) and where the segmenter sees an object."""
    seen, objects = [], []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        logits, labels = judge(to_input(part))
        logits = F.interpolate(logits, size=part.shape[1:3], mode="bilinear", align_corners=False)
        seen.append(labels[:, 1:].argmax(dim=1).numpy() + 1)
        objects.append(logits.argmax(dim=1).numpy() == 1)
    return np.concatenate(seen), np.concatenate(objects)


def iou(mask: NDArray[np.uint8], objects: NDArray[np.bool_], class_ids: Collection[int]) -> float:
    """Intersection over union of some classes of a mask with what the judge sees, over pixels that `mask` does not
    ignore; 0 where both are empty.
    """
    counted = mask != IGNORE
    a, b = np.isin(mask, list(class_ids)) & counted, objects & counted
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def judge_metrics(judge: Any, count: int, seed: int) -> dict[str, float]:
    """How well the judge does on real single-object renders that it was not trained on."""
    config = SceneConfig(styles=KNOWN_STYLES, max_objects=1, min_length=0.6, max_length=0.95, seed=9000 + seed)
    scenes = [render_scene(config, i) for i in range(count)]
    wanted = [s.prompt_class_ids[0] for s in scenes]
    seen, objects = verdicts(judge, np.stack([s.image for s in scenes]))
    ious = [iou(s.mask, o, [c]) for s, o, c in zip(scenes, objects, wanted, strict=True)]
    return {"class_agreement": float(np.mean(seen == wanted)), "mask_iou_median": float(np.median(ious))}
