"""An export to where others are: a folder, an object store, or the Hugging Face Hub. Only what changed travels."""

from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from maskmill.data_contracts import content_id, read_bytes, remove_file, write_bytes
from maskmill.data_contracts.secrets import public
from maskmill.data_contracts.sums import checked_json, read_json
from maskmill.pipelines.ingest.files import path_problem

RECORD = ".maskmill-push.json"
HUB = "hf://datasets/"


@dataclass(frozen=True)
class Pushed:
    """What a push did: files written, files that were there already, files of an earlier push that were removed."""

    written: int
    there: int
    removed: int


def push_export(export: str, target: str) -> Pushed:
    """Bring the files of an export folder to `target`, a folder or URL. A cut-off push goes on where it stopped; files
    that others put there stay.

    Raises:
        FileNotFoundError: nothing to push.
    """
    files = dict(_files(export))
    if not files:
        raise FileNotFoundError(f"{export}: expected an export with files, found none; run `maskmill export` first")
    if target.startswith(HUB):
        return _to_hub(export, target.removeprefix(HUB), len(files))
    place = target.rstrip("/")
    before = pushed_to(place)
    written = 0
    done = dict(before)
    for name, path in sorted(files.items()):
        data = read_bytes(path)
        stamp = content_id(data)
        if before.get(name) != stamp or not _is_there(f"{place}/{name}"):
            write_bytes(f"{place}/{name}", data)
            written += 1
        done[name] = stamp
    gone = sorted(set(before) - set(files))
    for name in gone:
        if _is_there(f"{place}/{name}"):
            remove_file(f"{place}/{name}")
    record = {name: done[name] for name in sorted(files)}
    write_bytes(f"{place}/{RECORD}", checked_json(record))
    return Pushed(written, len(files) - written, len(gone))


def _files(export: str) -> Iterator[tuple[str, str]]:
    """Relative name and path of each file, without our own notes."""
    fs, root = fsspec.core.url_to_fs(export.rstrip("/"))
    for path in fs.find(root):
        name = path[len(root.rstrip("/")) + 1 :]
        if not any(part.startswith(".") for part in name.split("/")):
            yield name, fs.unstrip_protocol(path)


def pushed_to(place: str) -> dict[str, str]:
    """What pushes brought to a place: content hash of each file by its path; {} where there is no record. Others may
    have written it: only names of files below the target count.
    """
    try:
        found = read_json(f"{place}/{RECORD}")
    except (FileNotFoundError, ValueError):
        return {}
    return {name: str(stamp) for name, stamp in found.items() if path_problem(name) is None}


def _is_there(path: str) -> bool:
    fs, target = fsspec.core.url_to_fs(path)
    return bool(fs.exists(target))


def _to_hub(export: str, name: str, files: int) -> Pushed:
    """One commit on a dataset repository; the token is the one that `hf auth login` stored.

    Raises:
        ConnectionError: the hub cannot be reached, or refuses; says what it said.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=export, ignore_patterns=[".*", "**/.*"])
    except Exception as error:  # the hub raises a dozen kinds: offline, no token, no such owner
        raise ConnectionError(f"{HUB}{name}: {public(str(error))}") from error
    return Pushed(files, 0, 0)
