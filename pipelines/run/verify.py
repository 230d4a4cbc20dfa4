"""Every file of a run or an export, each byte of it held against the hashes that were written with it."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from maskmill.data_contracts import Manifest, content_id, is_sealed, read_bytes, read_footer, shard_fault
from maskmill.data_contracts.sums import LIST, carries_check, json_fault, read_list, sum_fault
from maskmill.pipelines.core.verdicts import JOURNAL, journal_fault
from maskmill.pipelines.export.markers import MARKERS, marker_fault, marker_path, read_marker
from maskmill.pipelines.export.push import RECORD, pushed_to
from maskmill.pipelines.report.write import report_fault
from maskmill.pipelines.run.sums import CACHES, THERE, files_of
from maskmill.pipelines.stages.evaluate import evaluation_fault
from maskmill.trainers.engine.artifact import artifact_fault

LOGS = frozenset({".lock", "metrics.jsonl", "timings.json"})
FIX = "run the same command again: what is damaged is made again"


@dataclass(frozen=True)
class Fault:
    """A damaged or missing file, and what is wrong with it."""

    path: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: damaged: {self.found}"


@dataclass(frozen=True)
class Verification:
    """What was looked at: files whose every byte is as it was written, faults, and files that carry no hashes (earlier
    versions wrote none; of their shards the rows were held against the content hash).
    """

    verified: tuple[str, ...]
    faults: tuple[Fault, ...]
    without_hashes: tuple[str, ...]


Checked = dict[str, str | None]  # path -> what is wrong; None: whole


def verify(folder: str) -> Verification:
    """Look at every file of a run folder, an export, a folder of shards, or an artifact.

    Raises:
        FileNotFoundError: nothing of maskmill's is there.
    """
    folder = folder.rstrip("/")
    paths = [path for path in files_of(folder) if path.split("/")[-1] not in LOGS and not _is_cache(path)]
    if not paths:
        raise FileNotFoundError(f"{folder}: expected a run, an export or a folder of shards, found no files")
    there = set(paths)
    checked: Checked = {}
    unsealed: set[str] = set()
    for root in sorted({path.split(f"{MARKERS}/")[0].rstrip("/") for path in paths if f"{MARKERS}/" in path}):
        checked |= _export(folder, root, there)
    for path in (p for p in paths if p.endswith(".parquet") and p not in checked):
        checked[path] = shard_fault(f"{folder}/{path}")
        if checked[path] is None and not is_sealed(f"{folder}/{path}"):
            unsealed.add(path)
    checked |= _lists(folder, there)
    checked |= _pushed(folder, there)
    checked |= _documents(folder, [path for path in paths if path not in checked])
    checked |= _listed(folder, there, checked)
    if not checked:
        raise FileNotFoundError(f"{folder}: expected a run, an export, shards or an artifact, found other files alone")
    return _sorted(paths, checked, unsealed)


def _is_cache(path: str) -> bool:
    return bool(CACHES & set(path.split("/")[:-1]))


def _sorted(paths: list[str], checked: Checked, unsealed: set[str]) -> Verification:
    whole = tuple(path for path in paths if path in checked and checked[path] is None and path not in unsealed)
    faults = tuple(Fault(path, found) for path, found in sorted(checked.items()) if found is not None)
    unknown = tuple(path for path in paths if path not in checked or path in unsealed)
    return Verification(whole, faults, unknown)


def _export(folder: str, root: str, there: set[str]) -> Checked:
    """Files of one export, by its markers."""
    place = "/".join(part for part in (folder, root) if part)
    checked: Checked = {}
    for path in sorted(p for p in there if posixpath.dirname(p) == f"{root}/{MARKERS}".lstrip("/")):
        if not path.endswith(".json"):
            continue
        name = posixpath.basename(path).removesuffix(".json")
        data, marker = read_bytes(marker_path(place, name)), read_marker(place, name)
        if marker is None or carries_check(data) or marker.sums:
            checked[path] = json_fault(data)
        if marker is None:
            continue
        for file in marker.files:
            alone = marker.model_copy(update={"files": [file]})
            fault = (
                marker_fault(place, name, alone, thorough=True) if marker.fingerprint else "an export that was cut off"
            )
            if fault or file in marker.sums:
                checked[f"{root}/{file}".lstrip("/")] = fault and fault.removeprefix("damaged: ")
    return checked


def _lists(folder: str, there: set[str]) -> Checked:
    """Files that a list beside them names, and the lists."""
    checked: Checked = {}
    for path in sorted(p for p in there if posixpath.basename(p) == LIST):
        if not carries_check(data := read_bytes(f"{folder}/{path}")):
            continue  # somebody else's
        checked[path] = json_fault(data)
        home = posixpath.dirname(path)
        for name, wanted in read_list(posixpath.join(folder, home)).items():
            checked[posixpath.join(home, name)] = sum_fault(posixpath.join(folder, home, name), wanted)
    return checked


def _pushed(folder: str, there: set[str]) -> Checked:
    """Files that a push brought here, and its record."""
    if RECORD not in there:
        return {}
    checked: Checked = {}
    if carries_check(data := read_bytes(f"{folder}/{RECORD}")):
        checked[RECORD] = json_fault(data)
    for name, wanted in pushed_to(folder).items():
        try:
            same = content_id(read_bytes(f"{folder}/{name}")) == wanted
        except FileNotFoundError:
            checked[name] = "gone"
        else:
            checked[name] = None if same else "another content than was pushed"
    return checked


def _documents(folder: str, paths: list[str]) -> Checked:
    """Files that carry their own hash: configs, manifests, reports, artifacts, evaluations."""
    checked: Checked = {}
    for path in paths:
        place = f"{folder}/{path}"
        if path.endswith(("config.json", "metrics.json", "manifest.json")) and carries_check(data := read_bytes(place)):
            checked[path] = json_fault(data)
        elif path.endswith("report/index.html"):
            checked[path] = report_fault(read_bytes(place))
        elif path == JOURNAL:
            checked[path] = journal_fault(read_bytes(place))
    for path in [p for p in paths if p.endswith("model.safetensors")]:
        for name, found in _parts(path, artifact_fault(posixpath.dirname(f"{folder}/{path}"))).items():
            checked[name] = found
    for path in [p for p in paths if p.endswith("overlays.png")]:
        checked |= _parts(path, evaluation_fault(posixpath.dirname(f"{folder}/{path}")))
    return checked


def _parts(path: str, fault: str | None) -> Checked:
    """A fault of a folder of files, by the file that it names; the one at `path` where there is none."""
    if fault is None:
        return {path: None}
    name, _, found = fault.partition(": ")
    return {posixpath.join(posixpath.dirname(path), name): found}


def _listed(folder: str, there: set[str], checked: Checked) -> Checked:
    """What a run's manifest lists: loose files by their hashes, sample shards by their contents."""
    if "manifest.json" not in there or checked.get("manifest.json") is not None:
        return {}
    manifest = Manifest.read(f"{folder}/manifest.json")
    found: Checked = {}
    for path, wanted in manifest.files.items():
        own = wanted == THERE
        found[path] = checked.get(path, "gone") if own else checked.get(path) or sum_fault(f"{folder}/{path}", wanted)
    if any(path.startswith("samples/") for path in there) or not manifest.files:
        found |= dict(_moved(folder, manifest, checked))
    return found


def _moved(folder: str, manifest: Manifest, checked: Checked) -> Iterator[tuple[str, str]]:
    """Sample shards that are whole in themselves but are not those of this run, or are gone."""
    for entry in manifest.shards:
        footer = read_footer(f"{folder}/{entry.path}")
        if footer is None and entry.path not in checked and manifest.files:
            yield entry.path, "gone"
        elif footer is not None and footer.content != entry.content:
            yield (
                entry.path,
                "rows that are not those of this run's manifest; it was cut off since, or the shard is another's",
            )
