"""Masks of a clip from boxes in its first frame: does deciding when to update the template, and how to match, pay?

A proposal segmenter is trained once on DAVIS training sequences, photos and drawn clips; the agent (one a seed) on
other DAVIS training sequences and drawn clips, so that it meets detections as imperfect as in the test.
Arms: every fixed combination of method and update: `iou_always`, `iou_never` (overlap match in the search region; the
template is always or never updated), `likeness_always`, `likeness_never` (match by the region's own descriptors),
`appearance_always`, `appearance_never` (Siamese match on the whole frame, every frame); `always_update` and
`never_update` (FTMU's loop with that answer), `random` (a coin), `threshold` (update where template and prediction look
alike; level chosen on the agent's training clips), `learned` (both decisions at once), `oracle` (the best course in
hindsight, by beam search over the same detections: how much deciding could give).
Metrics on held-out DAVIS sequences: `j`, `f` (mean over objects, 0 to 100), `fps` (frames a second of one core's time),
`j_recall`, `j_decay`, `update_rate`, `whole_rate`, `action_variety` (share of decisions that are not the most frequent
one: 0 = the policy is a fixed rule); on drawn clips whose objects cross: `crossing_j`, `kept_apart`.
Also writes FILE.png (with the JSON file's stem): crossing clips as the agent sees them.
"""

import shutil

import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.ftmu.arms import ARMS, ONCE, crossing, draw_sheet, measure_arms
from benchmarks.ftmu.clips import SPACE, clip_rows, split, tested_clips
from benchmarks.ftmu.training import SIZES, choose_level, train_agent, train_segmenter
from benchmarks.shards import write_rows
from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.ftmu.rollout import open_clips


def _repeat(record: Record, arm: str, seed: int) -> bool:
    """Take over what another seed gave, for arms without chance over the one segmenter."""
    if arm in ONCE and (known := record.values.get(arm)):
        record.add(arm, seed, next(iter(known.values())))
    return record.has(arm, seed)


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    own, others, tested = split(options)
    print(f"{len(own)} sequences for the segmenter, {len(others)} for the agent, {len(tested)} tested", flush=True)
    segmenter = train_segmenter(options, size, own, work)
    print(f"segmenter: {segmenter}", flush=True)
    torch.set_num_threads(1)
    root, tested_root = options.data, options.tested
    if root is None or tested_root is None:
        raise FileNotFoundError("ftmu: expected --data DIR with davis/")
    data = write_rows(clip_rows(root, others, range(1000, 1000 + size.drawn)), work / "agent-clips")
    clips = tested_clips(tested_root, tested)
    level, sheet = None, options.json_path.with_suffix(".png")
    for seed in options.seeds:
        arms = [arm for arm in ARMS if not record.has(arm, seed) and not _repeat(record, arm, seed)]
        if not arms:
            continue
        agent = train_agent(size, seed, segmenter, data, work)
        if level is None:
            samples = Samples.open(DataConfig(samples=(data,)), str(work / "cache"))
            level = choose_level(agent, open_clips(samples, agent.segmenter, SPACE.background_id))
        for arm, tally in measure_arms(agent, level, seed, clips, arms).items():
            found = {**tally.metrics(), **crossing(agent, level, seed, arm, size.crossing)}
            record.add(arm, seed, found)
            if arm == "learned" and seed == options.seeds[0]:
                draw_sheet(agent, sheet, size.crossing)
            print(f"seed {seed}: {arm} " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
    record.finish()
    shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """As the command line says."""
    run(parse_options("ftmu", __doc__))
