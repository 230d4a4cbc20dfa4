"""What prompting costs: seconds and memory a photo of full-size models with random numbers for weights.

Models: `starter`, the one that ships; `sam2-tiny`, `grounding-dino-tiny`, `owlv2-base`, `sam-base` (ViT-B) and
`sam3-tracker`, whose time does not depend on the weights (of the last: one photo, and no batches).
Arms: MODEL/bare (encoder and one call for all prompts on inputs that are ready: nothing less is possible), MODEL/single
(the labeler, photo by photo) and MODEL/batch 4. Photos are drawn scenes with eight boxes, or eight class names.
Metrics: `seconds_per_image`; `share_of_bare`, the bare model's seconds over the arm's; `peak_mb`, the most memory that
the process held. On a CPU seconds are those of one core's time, so that other work on the machine does not count. Each
arm runs in a process of its own.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import LabelSpace
from maskmill.labelers import LabelItem
from maskmill.vision.pretrained import STARTER, model_folder

ARMS = ("bare", "single", "batch 4")
IMAGES = {"small": 4, "full": 32}
HUGE = ("sam3-tracker",)  # minutes a photo
SIZE = (480, 640)  # of the photos
NAMES = ("cat", "dog", "horse", "bird", "cow", "sheep", "car", "boat")
SPACE = LabelSpace.from_names(list(NAMES))


def _words() -> dict[str, int]:
    """BERT's special ids, and the names."""
    ids = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    return {**ids, **{name: 2000 + i for i, name in enumerate(NAMES)}}


def _letters() -> dict[str, int]:
    """CLIP's vocabulary, letters alone; begin and end have its ids."""
    letters = [chr(i) for i in range(33, 127)]
    names = [*letters, *[f"{c}</w>" for c in letters]]
    return {**{name: i for i, name in enumerate(names)}, "<|startoftext|>": 49406, "<|endoftext|>": 49407}


def build(model: str, folder: Path) -> None:
    """Write a full-size model of the library's default config."""
    import transformers as tf

    if model == STARTER:
        shutil.copytree(model_folder(STARTER), folder, dirs_exist_ok=True)
        return
    library: Any = tf  # carries no types
    torch.manual_seed(0)
    made, parts = {
        "sam-base": lambda: (library.SamModel(library.SamConfig()), [library.SamImageProcessor()]),
        "sam2-tiny": lambda: (library.Sam2Model(library.Sam2Config()), [library.Sam2ImageProcessor()]),
        "sam3-tracker": lambda: (
            library.Sam3TrackerModel(library.Sam3TrackerConfig()),
            [library.Sam3ImageProcessor()],
        ),
        "grounding-dino-tiny": lambda: (
            library.GroundingDinoForObjectDetection(library.GroundingDinoConfig()),
            [library.GroundingDinoImageProcessor(), library.BertTokenizer(vocab=_words())],
        ),
        "owlv2-base": lambda: (
            library.Owlv2ForObjectDetection(library.Owlv2Config(vision_config={"image_size": 960})),
            [library.Owlv2ImageProcessor(), library.CLIPTokenizer(vocab=_letters(), merges=[])],
        ),
    }[model]()
    for part in (made, *parts):
        part.save_pretrained(folder)


def items(count: int) -> list[LabelItem]:
    """Photos of noise with eight boxes each."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8) for _ in range(count)]
    boxes = np.array([[1 + i, 60 * i, 30 * i, 60 * i + 150, 30 * i + 200] for i in range(8)], np.float32)
    return [LabelItem(str(number), image, boxes=boxes) for number, image in enumerate(images)]


def promptable(folder: str, arm: str, count: int) -> Callable[[], object]:
    """What is timed of a promptable model."""
    from maskmill.labelers.promptable import Config, load
    from maskmill.labelers.promptable.prompts import calls, item_prompts

    engine = load(Config(model=folder, tags="none", batch=4 if arm == "batch 4" else 1), SPACE)
    photos = items(count)
    if arm != "bare":
        return lambda: engine.label(photos)
    pixels = [engine.family.pixels(item.image)[None] for item in photos]
    ((_, call),) = calls(item_prompts(photos[0], SPACE), 32)
    return lambda: [engine.family.decode(engine.family.embed(one)[0], call, SIZE, several=True) for one in pixels]


def detector(folder: str, arm: str, count: int) -> Callable[[], object]:
    """What is timed of a detector."""
    from maskmill.labelers.detect import Config, load

    engine = load(Config(model=folder, batch=4 if arm == "batch 4" else 1), SPACE)
    photos = items(count)
    if arm != "bare":
        return lambda: engine.detect(photos)
    names = [engine.family.template.replace("{}", name) for name in NAMES]
    ((_, text),) = engine.family.texts(names, engine.family.words)
    pixels = [engine.family.pixels(item.image)[None] for item in photos]
    return lambda: [engine.family.scores(one, text) for one in pixels]


MODELS = {
    STARTER: promptable,
    "sam2-tiny": promptable,
    "grounding-dino-tiny": detector,
    "owlv2-base": detector,
    "sam-base": promptable,
    "sam3-tracker": promptable,
}


def measure(model: str, folder: str, arm: str, count: int) -> dict[str, float]:
    """Figures of one arm, in this process."""
    torch.set_num_threads(1)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    if torch.cuda.is_available():
        MODELS[model](folder, arm, 1)()  # kernels are chosen and loaded once
    work = MODELS[model](folder, arm, count)
    begun = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    figures = {"seconds_per_image": (clock() - begun) / count}
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        figures["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def run(options: Options) -> None:
    """All arms; none depends on the seed."""
    record = Record.open(options)
    for model in MODELS:
        arms, count = (ARMS[:2], 1) if model in HUGE else (ARMS, IMAGES[options.budget])
        todo = [(arm, s) for arm in arms for s in options.seeds if not record.has(f"{model}/{arm}", s)]
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            build(model, Path(folder))
            for arm, seed in todo:
                words = f"{model!r}, {folder!r}, {arm!r}, {count}"
                call = (
                    f"import json; from benchmarks.promptable_cost import measure; print(json.dumps(measure({words})))"
                )
                done = subprocess.run([sys.executable, "-c", call], check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                bare = record.values.get(f"{model}/bare", {}).get(str(seed), found)
                share = bare["seconds_per_image"] / found["seconds_per_image"]
                record.add(f"{model}/{arm}", seed, {**found, "share_of_bare": share})
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run(parse_options("promptable_cost", __doc__, needs_data=False))
