"""What labelling costs: images a second and peak memory of `clip_cam`, one image at a time against batches.

Arms: MODEL/batch SIZE, for the starter CLIP and for ViT-B/16 with random weights (speed does not depend on weights).
Metrics: `images_per_s@maps` without refinement, `images_per_s@par` and `images_per_s@crf` with it, and `peak_mb`, the
most memory that the process held. On a CPU these are images a second of one core's time, so that other work on the
machine does not count. Each arm runs in a process of its own; images are drawn scenes with two tags each.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import load_label_space
from maskmill.labelers import LabelItem
from maskmill.labelers.clip_cam import Config, load
from maskmill.labelers.clip_cam.labeler import Float32
from maskmill.starter.drawn import SceneConfig, render_scene

MODELS = {"starter": "starter", "ViT-B-16": "ViT-B-16-quickgelu"}
BATCHES = (1, 8)
IMAGES = {"small": 8, "full": 128}
SIDE = 320
TAGS = (8, 12)
Mapped = tuple[list[tuple[int, ...]], list[Float32]]  # class ids of each image and its maps


def measure(model: str, batch: int, count: int) -> dict[str, float]:
    """Figures of one arm, in this process. Class maps are timed once; each refinement is timed on them."""
    torch.set_num_threads(1)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    images = [render_scene(SceneConfig(size=SIDE), number).image for number in range(count)]
    items = [LabelItem(str(number), image, class_ids=TAGS) for number, image in enumerate(images)]
    space = load_label_space("voc")
    options = {"model": model, "image_side": SIDE, "batch": batch, "min_decided": 0.0}
    labelers = {
        name: load(Config.model_validate({**options, "refine": refine}), space)
        for name, refine in (("maps", "none"), ("par", "par"), ("crf", "crf"))
    }
    batches = [items[start : start + batch] for start in range(0, count, batch)]
    plain = labelers["maps"]

    def class_maps(chosen: list[LabelItem]) -> Mapped:
        inputs = torch.stack([plain.resize(item.image) for item in chosen])
        return plain.class_maps(inputs, [item.class_ids for item in chosen])

    class_maps(batches[0])
    begun = clock()
    mapped = [class_maps(chosen) for chosen in batches]
    for_maps = clock() - begun
    figures = {}
    for name, labeler in labelers.items():
        labeler.refined(batches[0], *mapped[0])
        begun = clock()
        for chosen, found in zip(batches, mapped, strict=True):
            labeler.refined(chosen, *found)
        figures[f"images_per_s@{name}"] = count / (for_maps + clock() - begun)
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        figures["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


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
