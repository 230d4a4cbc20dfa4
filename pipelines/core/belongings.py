"""Which shards in a run folder its own runs wrote: only those are ever removed."""

import json
from collections.abc import Iterable

from maskmill.data_contracts import (
    Footer,
    footer_fault,
    list_shards,
    read_bytes,
    read_footer,
    remove_file,
    write_if_changed,
)
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.stage import Stage

RECORD = "stages.json"


class ForeignFileError(ValueError):
    """A file lies where a run keeps its shards, and no run of this folder wrote it."""


class Belongings:
    """The record RUN/stages.json: config hashes under which each stage has worked in this folder."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir.rstrip("/")

    def claim(self, stage: Stage, wanted: Iterable[str]) -> None:
        """Note that `stage` works here, and remove its shards that are not in `wanted` any more.

        Raises:
            ForeignFileError: a file that stays in the way; names it. Nothing is removed then.
        """
        paths = list(wanted)
        names = {_place(path) for path in paths}
        known = self._hashes(stage)
        orphans = []
        for folder in sorted({path.rsplit("/", 1)[0] for path in paths} - {self._run_dir}):
            for path in list_shards(folder):
                if _place(path) in names:
                    _refuse_foreign(path, stage)
                elif _is_own(read_footer(path), stage, known):
                    orphans.append(path)
                else:
                    raise _foreign(path)
        self._note(stage)
        for path in orphans:
            remove_file(path)

    def _hashes(self, stage: Stage) -> set[str]:
        """Hashes on record; those of folders of earlier versions are in the manifest's lineage."""
        lineage = _json(f"{self._run_dir}/manifest.json").get("lineage", [])
        found = {str(line).partition("@")[2] for line in lineage if str(line).startswith(f"{stage.name}@")}
        return found | set(_json(f"{self._run_dir}/{RECORD}").get(stage.name, [])) | {stage.config_hash}

    def _note(self, stage: Stage) -> None:
        record = _json(f"{self._run_dir}/{RECORD}")
        if stage.config_hash in record.get(stage.name, []):
            return
        record[stage.name] = sorted({*record.get(stage.name, []), stage.config_hash})
        write_if_changed(f"{self._run_dir}/{RECORD}", (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


def _json(path: str) -> dict[str, list[str]]:
    try:
        found = parse_json(read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _place(path: str) -> tuple[str, ...]:
    """Folder and name: listed paths may be spelt otherwise than wanted ones in front of that."""
    return tuple(path.rsplit("/", 2)[-2:])


def _is_own(footer: Footer | None, stage: Stage, known: set[str]) -> bool:
    if footer is None or footer.stage != stage.name or footer.config_hash not in known:
        return False
    return footer.contract in {contract.name for contract in stage.contracts}


def _refuse_foreign(path: str, stage: Stage) -> None:
    """A shard that will be written again may be overwritten if it is ours, of any config, or too damaged to tell."""
    footer = read_footer(path)
    ours = footer is not None and footer.stage == stage.name
    damaged = footer is None and footer_fault(path) not in (None, "no footer of maskmill's")
    if not ours and not damaged:
        raise _foreign(path)


def _foreign(path: str) -> ForeignFileError:
    fix = "move it out of the folder, or name another run_dir"
    return ForeignFileError(
        f"{path}: expected only shards that runs of this folder wrote, found a file of others. {fix}"
    )
