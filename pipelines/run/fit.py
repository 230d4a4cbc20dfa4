"""RUN/fit.json: in how many photos CLIP sees what their labels name at all; made once from the stored scores."""

import json

from maskmill.data_contracts import SCORE, content_id, list_shards, read_bytes, read_footer, read_shard, write_bytes
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.report.alarms import FIT
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.score import open_scorer

VERSION = "1"
DRAWN = frozenset({"drawn", "drawn_groups"})  # the threshold was found on photos
ASKED = 2000  # photos, from the first shards: enough for a share


def note_fit(config: RunConfig) -> None:
    """Write RUN/fit.json unless it is about these very scores. Only for photos: what is drawn or generated was asked
    for its classes, and selection judges each.
    """
    shards = list_shards(f"{config.run_dir}/scores")
    if config.source is None or config.source.kind in DRAWN or not shards:
        return
    contents = [footer.content for path in shards if (footer := read_footer(path)) is not None]
    stamp = content_id(VERSION, config.space.fingerprint, *contents)
    path = f"{config.run_dir}/{FIT}"
    if _stamp(path) == stamp:
        return
    seen: set[int] = set()
    fits: list[bool] = []
    for shard in shards:
        table = read_shard(shard, SCORE, ["label_ids", "embedding"])
        fits += open_scorer(config.score, config.space).fits(table)
        seen |= {i for labels in table.column("label_ids").to_pylist() for i in labels}
        if len(fits) >= ASKED:
            break
    names = [config.space.by_id[i].name for i in sorted(seen) if i in config.space.by_id]
    found = {"photos": len(fits), "share": round(sum(fits) / len(fits), 4) if fits else 1.0, "classes": names}
    write_bytes(path, (json.dumps({**found, "stamp": stamp}, indent=1) + "\n").encode())


def _stamp(path: str) -> str:
    try:
        return str(parse_json(read_bytes(path)).get("stamp"))
    except (FileNotFoundError, ValueError):
        return ""
