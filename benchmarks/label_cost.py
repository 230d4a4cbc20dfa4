"""What labelling costs: images a second and peak memory of `clip_cam`, one image at a time against batches.

Arms: MODEL/batch SIZE, for the starter CLIP and for ViT-B/16 with random weights (speed does not depend on weights).
Metrics: `images_per_s` without refinement (`maps`), with PAR and with CRF, and `peak_mb`, the most memory that the
process held. Each arm runs in a process of its own; images are drawn scenes with two tags each.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.common import Options, Record, parse_options
from data_contracts import load_label_space
from generators.drawn import SceneConfig, render_scene
from labelers import LabelItem
from labelers.clip_cam import Config, load

MODELS = {"starter": "starter", "ViT-B-16": "ViT-B-16-quickgelu"}
BATCHES = (1, 8)
IMAGES = {"small": 16, "full": 128}
SIDE = 320
TAGS = (8, 12)


def measure(model: str, batch: int, count: int) -> dict[str, float]:
    """Figures of one arm, in this process."""
    images = [render_scene(SceneConfig(size=SIDE), number).image for number in range(count)]
    items = [LabelItem(str(number), image, class_ids=TAGS) for number, image in enumerate(images)]
    found = {}
    for name, refine in (("maps", "none"), ("par", "par"), ("crf", "crf")):
        options = {"model": model, "image_side": SIDE, "batch": batch, "refine": refine, "min_decided": 0.0}
        labeler = load(Config.model_validate(options), load_label_space("voc"))
        labeler.label(items[:batch])
        begun = time.perf_counter()
        labeler.label(items)
        found[f"images_per_s@{name}"] = count / (time.perf_counter() - begun)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def run(options: Options) -> None:
    """All arms; none depends on the seed."""
    record = Record.open(options)
    for name, model in MODELS.items():
        for batch in BATCHES:
            arm = f"{name}/batch {batch}"
            for seed in (s for s in options.seeds if not record.has(arm, s)):
                arguments = f"{model!r}, {batch}, {IMAGES[options.budget]}"
                call = (
                    f"import json; from benchmarks.label_cost import measure; print(json.dumps(measure({arguments})))"
                )
                done = subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.PIPE, text=True)
                record.add(arm, seed, json.loads(done.stdout.splitlines()[-1]))
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run(parse_options("label_cost", __doc__, needs_data=False))
