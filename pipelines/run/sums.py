"""Hashes of a run's loose files, those that carry none themselves, for the manifest."""

import posixpath
from collections.abc import Iterator

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts import TEMPORARY, Manifest, file_hash
from maskmill.pipelines.core.touched import is_touched
from maskmill.pipelines.export.markers import MARKERS

# Logs and caches, and what carries its own hash: the config names its folder, the manifest is what holds these; the
# journal of verdicts grows between runs.
OWN = frozenset({"config.json", "manifest.json", ".lock", "metrics.jsonl", "timings.json", "verdicts.jsonl"})
CARRIED = {"report/index.html"}  # carry their own hash, and show times: the manifest only says that they are there
THERE = "carries its own"  # in place of such a file's hash
CACHES = frozenset({"cache", "quarantine"})


def files_of(folder: str) -> list[str]:
    """Paths of all files in a folder, relative to it, sorted; temporaries of killed writers left out."""
    fs, target = fsspec.core.url_to_fs(folder)
    root = str(target).rstrip("/")
    found = (str(path)[len(root) + 1 :] for path in fs.find(root))
    return sorted(path for path in found if not posixpath.basename(path).startswith(TEMPORARY))


def loose_files(folder: str) -> Iterator[str]:
    """Files of a run that are neither shards nor parts of an export, and carry no hash of their own."""
    for path in files_of(folder):
        parts = path.split("/")
        own = parts[-1] in OWN and (len(parts) == 1 or parts[-1] != "config.json")
        export = parts[0] == "export" or MARKERS in parts
        if not (own or export or CACHES & set(parts[:-1]) or path.endswith(".parquet")):
            yield path


def sums_of_run(folder: str) -> dict[str, str]:
    """Hash of each loose file. One that is older than the manifest keeps the hash that is there: what rotted since must
    not pass for what was written.
    """
    manifest = f"{folder}/manifest.json"
    try:
        known = Manifest.read(manifest).files
    except (FileNotFoundError, ValueError):
        known = {}
    local = isinstance(fsspec.core.url_to_fs(folder)[0], LocalFileSystem)
    sums = {}
    for path in loose_files(folder):
        if path in CARRIED:
            sums[path] = THERE
            continue
        keep = path in known and local and not is_touched(f"{folder}/{path}", manifest)
        sums[path] = known[path] if keep else file_hash(f"{folder}/{path}")
    return sums
