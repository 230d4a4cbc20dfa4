"""The manifest of a run: what is in it, made from what, under which licences."""

from maskmill.curation.sds import SdsConfig
from maskmill.data_contracts import Manifest, ShardEntry, config_hash, list_shards, package_versions, read_footer
from maskmill.data_contracts.secrets import portable, public, published
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.steps import steps_of
from maskmill.pipelines.run.sums import sums_of_run


def _crf(config: RunConfig) -> dict[str, str]:
    """Which dense CRF refined CLIP's masks; none where no score used one."""
    score = config.score
    if isinstance(score, SdsConfig) and score.refine in ("crf", "mean_field"):
        return {"dense CRF": score.crf_in_use.backend}
    return {}


NOT_TOLD = {"run_dir", "workers", "crf_workers", "ray", "limits", "quarantine"}  # keys that change nothing in the data


def manifest_of(config: RunConfig, ledger: Ledger) -> Manifest:
    """The manifest of a run folder as it stands."""
    entries = []
    for path in list_shards(f"{config.run_dir}/samples"):
        if (footer := read_footer(path)) is not None:
            entries.append(ShardEntry.of(f"samples/{path.rsplit('/', 1)[-1]}", footer))
    lineage = []
    for name, folder in ((steps_of(config)[0], "samples"), ("score", "scores")):
        if paths := list_shards(f"{config.run_dir}/{folder}"):
            footer = read_footer(paths[0])
            lineage.append(f"{name}@{footer.config_hash if footer else '?'}")
    for name, file in (("dedup", "neighbours"), ("select", "decisions")):
        if (footer := read_footer(f"{config.run_dir}/{file}.parquet")) is not None:
            lineage.append(f"{name}@{footer.config_hash}")
    return Manifest(
        name=public(config.name),
        rows=ledger.rows_in,
        counts=ledger.counts,
        class_counts=ledger.class_counts(config.space),
        shards=entries,
        label_space=config.space.name,
        config=(settings := portable(published(config, exclude=NOT_TOLD))),
        config_hash=config_hash(settings),
        versions=package_versions() | _crf(config),
        licences=ledger.licences,
        files=sums_of_run(config.run_dir),
        lineage=lineage,
    )
