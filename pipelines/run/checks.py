"""Before a run starts: is there a label space, do the first masks fit it, and is the folder this source's own?"""

import logging
from pathlib import Path
from typing import Any

from maskmill.curation.sds import SdsConfig
from maskmill.data_contracts import LabelSpace, list_shards, read_bytes
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.core.step import Step
from maskmill.pipelines.ingest.scan import remarks, scan_masks, table, unnamed
from maskmill.pipelines.run.config import RunConfig

logger = logging.getLogger("maskmill")

RELEASED_TAU = 0.1


def named_space(config: RunConfig) -> LabelSpace:
    """The run's label space.

    Raises:
        ConfigError: none is given; says what the first masks hold, and the line to add.
    """
    if config.label_space is not None or config.source is None:
        return config.space
    scan = scan_masks(config.source, None)
    seen = f"{table(scan, config.source, None)}\n" if scan else ""
    raise ConfigError(f"{seen}{unnamed(scan)}")


def foresee(config: RunConfig, step: Step) -> None:
    """Where something is to be ingested: say what the first masks hold and what that means.

    Raises:
        ConfigError: none of them would pass; says the line that mends it.
    """
    if config.source is None or step.name != "ingest" or not any(step.why(i) for i in range(step.count())):
        return
    scan = scan_masks(config.source, space := named_space(config))
    if scan is None:
        return
    found = remarks(scan, config.source, space)
    if fatal := [remark for remark in found if remark.fatal]:
        raise ConfigError(f"{table(scan, config.source, space)}\n{fatal[0]}")
    logger.info("%s", table(scan, config.source, space))
    for remark in found:
        logger.warning("%s", remark)


def check_start(config: RunConfig, replace: bool = False) -> None:
    """All that must hold before a run writes anything.

    Raises:
        ConfigError: no label space, or a folder of another source (unless it may be replaced).
    """
    named_space(config)
    check_threshold(config)
    if not replace:
        check_same_source(config)


def check_threshold(config: RunConfig) -> None:
    """Say it where the threshold 0.1 of the release, which was chosen for permuted channels, meets shuffled tiles."""
    tiles = isinstance(config.score, SdsConfig) and config.score.perturbation == "tiles"
    if tiles and config.select.preset == "faithful" and config.select.pcs_tau == RELEASED_TAU:
        logger.warning(
            "select.pcs_tau: %g was chosen for a score of permuted channels, and score.perturbation is tiles, whose "
            "gaps are smaller. Set select.preset: mended (read off the scores), or score.preset: faithful (channels)",
            RELEASED_TAU,
        )


def check_same_source(config: RunConfig) -> None:
    """Refuse a run folder that another source filled.

    Raises:
        ConfigError: names both sources and the two ways out.
    """
    try:
        before = parse_json(read_bytes(f"{config.run_dir}/config.json"))
    except (FileNotFoundError, ValueError):
        return
    old, new = _origin(before), _origin(config.model_dump(mode="json"))
    if old == new or not list_shards(f"{config.run_dir}/samples"):
        return
    ways = "name another run_dir (--set run_dir=…), or give --replace to fill this one anew"
    raise ConfigError(f"{config.run_dir}: holds a run of {_words(old)}, and this one is of {_words(new)}; {ways}")


Origin = tuple[str, str]


def _origin(config: dict[str, Any]) -> Origin:
    """What a run is made from: kind and place of the source, or the generator's model."""
    if source := config.get("source"):
        root = str(source.get("root", ""))
        return str(source.get("kind")), root if "://" in root else str(Path(root).absolute())
    return "generate", str(((config.get("generate") or {}).get("generator") or {}).get("model", ""))


def _words(origin: Origin) -> str:
    kind, place = origin
    return f"pairs drawn by {place}" if kind == "generate" else f"source {kind} at {place}"
