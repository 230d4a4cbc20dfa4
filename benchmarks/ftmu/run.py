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
one: 0 = the policy is a fixed rule); on drawn clips of a video's length, whose objects leave, cross and look alike, the
same as `long_j`, ..., `long_action_variety`; on short drawn clips whose objects cross: `crossing_j`, `kept_apart`.
With `--dev` development parts are tested: DAVIS sequences that may be tuned on, long clips of known styles.
Also writes FILE.png (with the JSON file's stem): crossing clips as the agent sees them.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.ftmu.arms import ARMS, ONCE, crossing, draw_sheet, measure_arms
from benchmarks.ftmu.clips import SPACE, Clip, clip_rows, drawn_rows, split, tested_clips
from benchmarks.ftmu.long_clips import long_clips
from benchmarks.ftmu.training import SIZES, Size, choose_level, train_agent, train_segmenter
from benchmarks.shards import write_rows
from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.ftmu.agent import Agent
from maskmill.trainers.ftmu.rollout import open_clips

SETS = {"davis": "j", "long": "long_j", "crossing": "crossing_j"}  # a metric that each of them leaves


def _is_known(record: Record, arm: str, seed: int, metric: str) -> bool:
    """Whether a set was measured; arms without chance over the one segmenter take over what another seed gave."""
    runs = record.values.get(arm, {})
    if arm in ONCE and any(metric in run for run in runs.values()):
        _add(record, arm, seed, next(run for run in runs.values() if metric in run))
    return metric in record.values.get(arm, {}).get(str(seed), {})


def _add(record: Record, arm: str, seed: int, found: Mapping[str, float]) -> None:
    """Beside what the other sets gave."""
    record.add(arm, seed, {**record.values.get(arm, {}).get(str(seed), {}), **found})


def measure(
    name: str, agent: Agent, level: float, seed: int, arms: Sequence[str], clips: Sequence[Clip], size: Size
) -> Iterator[tuple[str, dict[str, float]]]:
    """What each arm gives on a set; of the crossing clips `size.crossing` are drawn, of the others `clips` is all."""
    if name == "crossing":
        yield from ((arm, crossing(agent, level, seed, arm, size.crossing)) for arm in arms)
        return
    prefix = "" if name == "davis" else f"{name}_"
    for arm, tally in measure_arms(agent, level, seed, clips, arms).items():
        yield arm, {f"{prefix}{metric}": value for metric, value in tally.metrics().items()}


def run(options: Options) -> None:
    """All arms of all seeds. What a set gave is kept as soon as it is measured, so a run that is cut off goes on."""
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
    learnt = drawn_rows(long_clips(size.long, "learn", size.frames))
    rows = chain(clip_rows(root, others, range(1000, 1000 + size.drawn)), learnt)
    data = write_rows(rows, work / "agent-clips")
    clips = {"davis": tested_clips(tested_root, tested), "crossing": []}
    clips["long"] = list(long_clips(size.long, "dev" if options.dev else "test", size.frames))
    level, sheet = None, options.json_path.with_suffix(".png")
    for seed in options.seeds:
        missing = {
            name: [arm for arm in ARMS if not _is_known(record, arm, seed, metric)] for name, metric in SETS.items()
        }
        if not any(missing.values()):
            continue
        agent = train_agent(size, seed, segmenter, data, work)
        if level is None:
            samples = Samples.open(DataConfig(samples=(data,)), str(work / "cache"))
            level = choose_level(agent, open_clips(samples, agent.segmenter, SPACE.background_id))
        if seed == options.seeds[0]:
            draw_sheet(agent, sheet, size.crossing)
        for name, arms in ((name, arms) for name, arms in missing.items() if arms):
            for arm, found in measure(name, agent, level, seed, arms, clips[name], size):
                _add(record, arm, seed, found)
                print(f"seed {seed}: {arm} " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
    record.finish()
    shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """As the command line says."""
    run(parse_options("ftmu", __doc__, has_dev=True))
