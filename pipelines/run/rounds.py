"""Generation in rounds: prompts are planned from what selection kept so far, until every quota is met or the budget
is spent.

After each round the account of all prompts so far is written to RUN/rounds/; the next round's prompts are a pure
function of it, so a run that is cut off anywhere plans the same round again.
"""

import json
from dataclasses import replace
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from maskmill.data_contracts import (
    DECISION,
    FOR_HASH,
    PROMPT,
    SAMPLE,
    LabelSpace,
    config_hash,
    iter_rows,
    list_shards,
    read_bytes,
    read_shard,
    remove_file,
    write_bytes,
)
from maskmill.data_contracts.texts import parse_json
from maskmill.generators.config import GeneratorConfig, settings_for_hash
from maskmill.generators.prompts import PromptConfig, prompts_from_classes
from maskmill.generators.quota import HardClass, Outcome, QuotaState, hard_classes, next_round, outcomes_of, tally
from maskmill.pipelines.run.captions import caption_prompts
from maskmill.pipelines.stages.from_masks import RunFromMasks


class GenerateConfig(BaseModel):
    """What to generate. With `quota`: rounds until every class has that many kept samples, or `budget` prompts are
    drawn.

    Without `quota`: one round of `per_class` prompts for each class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: GeneratorConfig = Field(default=GeneratorConfig(), description="what draws the images")
    prompts: PromptConfig = Field(default=PromptConfig(), description="what prompts may say")
    from_masks: RunFromMasks | None = Field(
        default=None, description="in place of text: images for masks that exist, drawn by a ControlNet"
    )
    captions: str | None = Field(
        default=None,
        description="file of captions in place of class prompts: a line each, or JSON rows {caption, class_prompt}",
    )
    per_class: int = Field(default=10, ge=1, description="without quota: prompts for each class")
    quota: int | dict[str, int] | None = Field(default=None, description="kept samples of each class, or by name")
    budget: int = Field(default=20_000, ge=1, description="with quota: prompts to draw at most")

    @model_validator(mode="after")
    def _captions_are_one_round(self) -> "GenerateConfig":
        if self.captions is not None and self.quota is not None:
            raise ValueError("captions are drawn once, in order; quota asks for rounds of class prompts: drop one")
        if self.from_masks is not None and (self.captions is not None or self.quota is not None):
            raise ValueError("from_masks draws every mask `per_mask` times: drop captions and quota")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs without captions or masks keep the hashes that they have always had."""
        dumped: dict[str, Any] = dump(self)
        later = ("captions", "from_masks")
        return {key: value for key, value in dumped.items() if key not in later or value is not None}

    def quotas(self, space: LabelSpace) -> dict[int, int]:
        """Quota by class id.

        Raises:
            KeyError: a class name that the label space does not know.
        """
        if isinstance(self.quota, dict):
            return {space.find(name).id: number for name, number in self.quota.items()}
        return dict.fromkeys(self.prompts.class_ids(space), self.quota or 0)


class Rounds:
    """The rounds of one run folder. `stamp` is a hash of all that an outcome depends on: other outcomes do not
    count.
    """

    def __init__(
        self, config: GenerateConfig, run_dir: str, space: LabelSpace, seed: int, per_shard: int, stamp: str
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._space = space
        self._seed = seed
        self._per_shard = per_shard
        settings = config.model_dump(mode="json", exclude={"quota", "budget"}, context=FOR_HASH)
        settings["generator"] = settings_for_hash(settings["generator"])
        self._stamp = config_hash({"generate": settings, "seed": seed, "per_shard": per_shard, "rest": stamp})

    def open(self) -> bool:
        """Write the prompts of the round that is due; False when there is none. A round that was cut off comes
        again.
        """
        from maskmill.pipelines.stages.generate import write_prompts  # brings the generator along

        finished, state, shards = self._finished()
        rows = self._prompts(finished, state)
        if not rows:
            return False
        paths = write_prompts(self._folder("prompts"), rows, self._per_shard, first_shard=shards)
        for path in list_shards(self._folder("prompts"))[shards + len(paths) :]:
            remove_file(path)  # of rounds that were planned under other settings
        return True

    def close(self) -> None:
        """Record what became of all prompts so far, judged by the decisions as they stand now."""
        finished, _, _ = self._finished()
        prompts = [row for path in list_shards(self._folder("prompts")) for row in iter_rows(path, PROMPT)]
        outcomes = outcomes_of(prompts, self._samples(), self._decisions(), self._rejects())
        record = {
            "stamp": self._stamp,
            "shards": len(list_shards(self._folder("prompts"))),
            "outcomes": [[o.prompt_id, list(o.prompted), o.kept, o.reason, list(o.class_ids)] for o in outcomes],
        }
        write_bytes(self._record(finished), (json.dumps(record) + "\n").encode())

    def hard_classes(self) -> list[HardClass]:
        """Classes that fell short of their quota, and why."""
        if self._config.quota is None:
            return []
        _, state, _ = self._finished()
        return hard_classes(state, self._config.quotas(self._space), self._config.budget, self._space)

    def _prompts(self, finished: int, state: QuotaState) -> list[dict[str, Any]]:
        config = self._config
        if config.quota is not None:
            quotas = config.quotas(self._space)
            return next_round(state, quotas, config.budget, self._seed, self._space, config.prompts)
        if finished:
            return []
        if config.captions is not None:
            return caption_prompts(config.captions, self._space, config.prompts, self._seed)
        return prompts_from_classes(self._space, config.prompts, config.per_class, self._seed)

    def _finished(self) -> tuple[int, QuotaState, int]:
        """Rounds on record under this stamp, their tally, and the prompt shards that they cover."""
        number, last = 0, None
        while (record := self._read(number)) is not None:
            number, last = number + 1, record
        if last is None:
            return 0, QuotaState(), 0
        outcomes = [Outcome(p, tuple(asked), kept, reason, tuple(c)) for p, asked, kept, reason, c in last["outcomes"]]
        return number, replace(tally([outcomes]), rounds=number), last["shards"]

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = parse_json(read_bytes(self._record(number)))
        except FileNotFoundError:
            return None
        return record if record["stamp"] == self._stamp else None

    def _record(self, number: int) -> str:
        return f"{self._folder('rounds')}/round-{number:03d}.json"

    def _folder(self, name: str) -> str:
        return f"{self._run_dir}/{name}"

    def _samples(self) -> list[tuple[str, str, list[int]]]:
        found = []
        for path in list_shards(self._folder("samples")):
            for row in read_shard(path, SAMPLE, ["sample_id", "class_ids", "provenance"]).to_pylist():
                extra = parse_json(row["provenance"]["extra"])
                found.append((extra["prompt_id"], row["sample_id"], row["class_ids"]))
        return found

    def _decisions(self) -> dict[str, str]:
        table = read_shard(f"{self._run_dir}/decisions.parquet", DECISION, ["sample_id", "reason"])
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def _rejects(self) -> dict[str, str]:
        paths = list_shards(self._folder("rejects"))
        return {str(row["sample_id"]): str(row["reason"]) for path in paths for row in iter_rows(path, DECISION)}
