"""WebDataset tars: members `key.jpg`, `key.mask.png`, `key.json`, read in place. Nothing is ever extracted."""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any, ClassVar, Literal

from maskmill.data_contracts import LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import File, Root, path_problem
from maskmill.pipelines.ingest.folder import check_words

Member = tuple[str, str, int, int]  # key, extension, offset of its bytes, size
SPECIAL = "<special>"
TEXTS = ("prompt", "class_prompt", "negative_prompt", "model_id", "model_revision", "scheduler", "licence", "extra")


class WebDatasetSource(Source):
    """`root` is a folder of uncompressed .tar files, or one of them. A member's key ends at its name's first dot.

    `key.json` may hold prompt_class_ids (ids or names), group, index, prompt, class_prompt, licence; `key.txt` holds
    a prompt.
    """

    kind: Literal["webdataset"] = "webdataset"
    version: ClassVar[int] = 2
    images: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    masks: tuple[str, ...] | None = ("mask.png", "seg.png")

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for tar in root.walk("", frozenset((".tar",))):
            if tar.problem is not None:
                yield Entry(tar.path, tar.stamp, problem=tar.problem)
            else:
                yield from self._tar_entries(root, tar)

    def _tar_entries(self, root: Root, tar: File) -> Iterator[Entry]:
        try:
            for key, members in groupby(_members(root, tar.path), key=lambda m: m[0]):
                yield self._entry(tar, key, list(members))
        except tarfile.TarError as error:
            fix = "write the tar again, uncompressed"
            problem = bad_annotation(tar.path, "a whole tar file", str(error) or "a broken header", fix).problem
            yield Entry(f"{tar.path}/", tar.stamp, problem=problem)

    def _entry(self, tar: File, key: str, members: list[Member]) -> Entry:
        parts = {extension: [offset, size] for _, extension, offset, size in members}
        fields = {
            "tar": tar.path,
            "image": _first(self.images, parts),
            "mask": _first(self.masks or (), parts),
            "json": parts.get("json"),
            "txt": parts.get("txt"),
        }
        return Entry(f"{tar.path}/{key}", tar.stamp, fields, path_problem(key) or self._problem(key, fields, parts))

    def _problem(self, key: str, fields: dict[str, Any], parts: dict[str, list[int]]) -> Problem | None:
        if SPECIAL in parts:
            found = "a link, device or sparse file"
            return Problem(Reason.UNSAFE_PATH, "an ordinary member", found, "store the file itself in the tar")
        there = f"{key}.{{{','.join(parts)}}}"
        if fields["image"] is None:
            return Problem(Reason.MISSING_IMAGE, f"a member {key}.{self.images[0]}", there, "add it, or drop the key")
        if self.masks is not None and fields["mask"] is None:
            return Problem(Reason.MISSING_MASK, f"a member {key}.{self.masks[0]}", there, "add it, or set masks: null")
        return None

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        parts = {name: _read(root, fields, name) for name in ("image", "mask", "json", "txt")}
        notes = _notes(parts["json"], entry.key)
        words = notes.get("prompt_class_ids")
        group, index = notes.get("group"), notes.get("index")
        whole = isinstance(index, int) and not isinstance(index, bool) and 0 <= index <= MAX_INDEX
        if not isinstance(group, str | None) or not (index is None or whole):
            found = f"group {group!r}, index {index!r}"
            raise bad_annotation(entry.key, "a group name and a frame number", found, "mend the json member")
        prompt = parts["txt"].decode("utf-8", "replace").strip() if parts["txt"] is not None else None
        return RawSample(
            image=parts["image"] or b"",
            mask=parts["mask"],
            words=None if words is None else check_words(words, entry.key),
            group=group,
            index=index,
            provenance={"prompt": prompt} | {t: notes[t] for t in TEXTS if isinstance(notes.get(t), str)},
        )


def _members(root: Root, path: str) -> Iterator[Member]:
    """Regular members of a tar with keys and places of their bytes, headers read one by one."""
    with root.fs.open(root.locate(path), "rb") as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header it saw
            if member.isreg() and not member.issparse():  # links are not followed: they may lead anywhere
                folder, slash, name = member.name.rpartition("/")
                if not name.startswith("."):
                    stem, _, extension = name.partition(".")
                    key = f"{folder}{slash}{stem}".encode("utf-8", "replace").decode()
                    yield key, extension.lower(), member.offset_data, member.size
            elif not member.isdir():
                yield member.name.encode("utf-8", "replace").decode(), SPECIAL, 0, 0


def _first(extensions: tuple[str, ...], parts: dict[str, list[int]]) -> list[int] | None:
    return next((parts[e] for e in extensions if e in parts), None)


def _read(root: Root, fields: dict[str, Any], name: str) -> bytes | None:
    if fields[name] is None:
        return None
    return root.read_range(fields["tar"], *fields[name])


def _notes(data: bytes | None, where: str) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        notes = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_annotation(where, "a JSON object in the json member", str(error), "mend the json member") from error
    if not isinstance(notes, dict):
        raise bad_annotation(where, "a JSON object in the json member", type(notes).__name__, "mend the json member")
    return notes
