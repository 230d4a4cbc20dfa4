"""What the joint-attention starter is read and drawn with, on prompts that `starter_generator` never tests.

    python -m benchmarks.starter_choices --guidance 2,3,4 --judge FILE
    python -m benchmarks.starter_choices --model DIR --judge FILE     # another training's folder (export-flow --out)

By guidance: class agreement with the judge, and by `first_step` the median IoU of concept masks with what it sees. The
judge is trained where FILE is not there yet. With --named the same for captions that name one of a class's three
drawings and its side, and how often it is that drawing, and that side (see `named_drawings`).
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.judge import train_judge, verdicts
from benchmarks.named_drawings import named_metrics
from benchmarks.starter_generator import MMDIT, PLANS, READINGS, UNTESTED, ious_of, requests_for
from maskmill.generators.config import GeneratorConfig
from maskmill.generators.text_to_image import TextToImage

FIRST_STEPS = (0.0, 0.4, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=MMDIT)
    parser.add_argument("--guidance", default="3", metavar="2,3,4")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--named", action="store_true", help="also whether drawings are drawn that captions name")
    parser.add_argument("--judge", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    plan, concept = PLANS["small"], READINGS["mmdit_concept"]
    judge, requests = train_judge(plan.judge_steps, given.judge), requests_for(plan.per_class, UNTESTED)
    wanted = np.array([request.class_ids[0] for request in requests])
    masks = {f"{share}": concept.model_copy(update={"first_step": share}) for share in FIRST_STEPS}
    for guidance in map(float, given.guidance.split(",")):
        config = GeneratorConfig(model=given.model, steps=given.steps, guidance=guidance, batch_size=8)
        read = TextToImage(config).compare(requests, masks)
        seen, _ = verdicts(judge, np.stack([d.image for d in read[f"{FIRST_STEPS[0]}"]]))
        ious = ", ".join(f"{name}: {np.median(ious_of(judge, drawn)):.3f}" for name, drawn in read.items())
        print(
            f"guidance {guidance}: class agreement {np.mean(seen == wanted):.3f}, IoU by first_step {ious}", flush=True
        )
        if given.named:
            named = named_metrics(judge, config.model_copy(update={"mask": masks[f"{FIRST_STEPS[-1]}"]}), UNTESTED)
            print("  by name: " + ", ".join(f"{name} {value:.3f}" for name, value in named.items()), flush=True)


if __name__ == "__main__":
    main()
