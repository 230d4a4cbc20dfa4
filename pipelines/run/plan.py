"""What a run would do now, step by step, without doing it: nothing is written, fetched or loaded."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from maskmill.curation.sds.config import SdsConfig
from maskmill.data_contracts import read_bytes
from maskmill.data_contracts.secrets import published
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.index import recall_footers
from maskmill.pipelines.core.step import NOTHING, Again, ShardStep
from maskmill.pipelines.run.checks import foresee, named_space
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.diff import KeyChange, key_changes
from maskmill.pipelines.run.steps import open_step, steps_of
from maskmill.pipelines.run.timings import StepTime, known_times

SHAPED_BY = {  # step: the sections of the config that it depends on
    "generate": ("generate", "label_space", "seed", "shard_size"),
    "ingest": ("source", "label_space", "shard_size"),
    "study": ("score", "label_space", "seed"),
    "learn": ("score", "label_space", "seed"),
    "score": ("score", "label_space", "seed"),
    "dedup": ("dedup",),
    "select": ("select", "label_space"),
    "downstream-data": ("downstream", "label_space"),
    "downstream": ("downstream", "label_space", "seed"),
    "export": ("export", "label_space", "name"),
    "report": ("report", "name"),
}


@dataclass(frozen=True)
class PlanLine:
    """What a step would do: how many units of how many, why, by reason, and which keys of its config changed since the
    folder was made. `waits_for`: the step whose work decides what there is to do; the counts are unknown until then.
    """

    step: str
    units: int
    to_run: int
    why: dict[str, int]
    notes: dict[str, int] = field(default_factory=dict)  # what is to be known of units that are done
    changed: tuple[str, ...] = ()
    waits_for: str | None = None
    seconds: float | None = None  # what it took before, for as much as there is to do

    @property
    def words(self) -> str:
        """The reasons as one line."""
        counted = self.waits_for is None and self.units > 0
        reasons = [f"{number}× {why}" if counted and self.units > 1 else why for why, number in self.why.items()]
        notes = [f"{number}× {note}" for note, number in self.notes.items()]
        return "; ".join([*(reasons or ["all done"]), *self.changed, *notes])


def plan(config: RunConfig, again: Again = NOTHING) -> list[PlanLine]:
    """What `run` would do now. Steps after one that has work are unknown until that one has run.

    Raises:
        ConfigError: no label space, or masks that do not fit it.
    """
    named_space(config)
    recall_footers(config.run_dir)
    changes = list(_changes(config))
    times, _ = known_times(config.run_dir)
    lines: list[PlanLine] = []
    waits_for: str | None = None
    for name in steps_of(config):
        changed = tuple(str(change) for change in changes if change.key.split(".")[0] in SHAPED_BY.get(name, (name,)))
        if waits_for is not None:
            reason = {f"unknown until {waits_for} has run": 1}
            seconds = _whole(times.get(name))
            lines.append(PlanLine(name, 0, 0, reason, changed=changed, waits_for=waits_for, seconds=seconds))
            continue
        line = _line(config, name, again, changed, times.get(name))
        lines.append(line)
        if line.why:
            waits_for = name
    return lines


def _line(config: RunConfig, name: str, again: Again, changed: tuple[str, ...], time: StepTime | None) -> PlanLine:
    if (missing := _not_here(config, name)) is not None:
        return PlanLine(name, 0, 0, {missing: 1}, changed=changed)
    step = open_step(config, name, again)
    foresee(config, step)
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for index in range(step.count()):
        if (why := step.why(index)) is not None:
            reasons[why] += 1
        elif isinstance(step, ShardStep) and (note := step.note(index)):
            notes[note] += 1
    to_run = sum(reasons.values())
    seconds = None if time is None or not to_run else round(time.per_unit * to_run, 1)
    changed = changed if reasons else ()
    return PlanLine(name, step.count(), to_run, dict(reasons), dict(notes), changed, seconds=seconds)


def _not_here(config: RunConfig, name: str) -> str | None:
    """Why a generator cannot be looked at without fetching it."""
    if name != "generate" or config.generate is None:
        return None
    from maskmill.generators.loading import local_model

    masks = config.generate.from_masks
    models = [config.generate.generator.model] if masks is None else [masks.control.model, masks.control.controlnet]
    if missing := [model for model in models if local_model(model) is None]:
        be = "is" if len(missing) == 1 else "are"
        return f"not done yet; {' and '.join(missing)} {be} fetched when the run starts"
    if masks is not None and masks.filter is not None:
        from maskmill.pipelines.stages.freemask import is_judged

        if not is_judged(masks.filter, masks.samples, config.space, f"{config.run_dir}/freemask.json"):
            return "not done yet; filter.artifact looks at the real pairs first"
    return None


def resources(config: RunConfig) -> str | None:
    """What the generator and a promptable judge want of memory and disk, in words; None where nothing of the kind is
    asked for, or nobody counted it.
    """
    return "; ".join(words for words in (_of_generator(config), _of_judge(config)) if words) or None


def _of_judge(config: RunConfig) -> str | None:
    """Of the promptable model that draws masks to compare with, where it lies on this machine already."""
    score = config.score
    if not isinstance(score, SdsConfig) or score.judge != "promptable":
        return None
    from maskmill.vision.model_cards import input_side, memory_bytes, model_facts
    from maskmill.vision.pretrained import local_folder

    model = str(score.by_boxes.model)
    if (folder := local_folder(model)) is None:
        return f"{model} is fetched when the run starts"
    facts = model_facts(str(folder), score.by_boxes.precision)
    memory = memory_bytes(facts, input_side(folder))
    return (
        f"{model} wants about {memory / 1e9:.1f} GB of memory on its device "
        f"(weights: {facts.weights_bytes / 1e9:.1f} GB; licence {facts.licence})"
    )


def _of_generator(config: RunConfig) -> str | None:
    if config.generate is None or config.generate.from_masks is not None:
        return None
    from maskmill.generators.loading import local_model
    from maskmill.generators.needs import needs_of

    generator = config.generate.generator
    found = needs_of(generator, local_model(generator.model))
    return None if found is None else f"{generator.model} wants {found.words}"


def _whole(time: StepTime | None) -> float | None:
    return None if time is None else round(time.seconds, 1)


def _changes(config: RunConfig) -> Iterator[KeyChange]:
    """Keys that differ from the config that the run folder was made with."""
    try:
        before = parse_json(read_bytes(f"{config.run_dir}/config.json"))
    except (FileNotFoundError, ValueError):
        return iter(())
    return key_changes(before, published(config))
