"""A throw-away stage with an option and a contract of its own: how many pixels each sample has."""

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from maskmill.data_contracts import SAMPLE, Contract, config_hash, list_shards, read_shard
from maskmill.pipelines.core.further import RunPlace
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.core.step import Step

SIZES = Contract("sizes", 1, pa.schema([("sample_id", pa.string()), ("pixels", pa.int64())]))


class Config(BaseModel):
    """Its options, as they stand in `stages: {sizes: …}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    times: int = 1


def open_step(config: Config, place: RunPlace) -> Step:
    """One unit a Sample shard; `samples/X.parquet` gives `sizes/X.parquet`."""

    def process(unit: Unit) -> StageResult:
        rows = read_shard(unit.inputs[0], SAMPLE, ["sample_id", "height", "width"]).to_pylist()
        sizes = [{"sample_id": r["sample_id"], "pixels": config.times * r["height"] * r["width"]} for r in rows]
        return StageResult((SIZES.table(sizes),), {"kept": len(rows)})

    shards = list_shards(f"{place.run_dir}/samples")
    outputs = [f"{place.run_dir}/sizes/{path.rsplit('/', 1)[1]}" for path in shards]
    units = [Unit((path,), (out,), index=i) for i, (path, out) in enumerate(zip(shards, outputs, strict=True))]
    return place.step(Stage("sizes", 1, (SIZES,), config_hash(config), process), units)
