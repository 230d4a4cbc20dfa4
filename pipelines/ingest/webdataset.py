"""WebDataset tars: members `key.jpg`, `key.mask.png`, `key.json`, read in place. Nothing is ever extracted."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.ingest.archives import PACKED, PLAIN, ZIPS, Member, members, read_member
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import File, Root, path_problem
from maskmill.pipelines.ingest.folder import check_words
from maskmill.pipelines.ingest.spill import Spill

Part = tuple[str, int, int]  # extension, place of its bytes, size
SPECIAL = "<special>"
NOTES = ("json", "txt")
TEXTS = ("prompt", "class_prompt", "negative_prompt", "model_id", "model_revision", "scheduler", "licence", "extra")


class WebDatasetSource(Source):
    """`root` is a folder of .tar files (packed ones, and .zip, as well), or one of them. A member's key ends at its
    name's first dot, as WebDataset has it; with `dots_in_keys` it ends before the longest extension that is known.

    `key.json` may hold prompt_class_ids (ids or names), group, index, prompt, class_prompt, licence; `key.txt` holds
    a prompt. The members of a key may lie anywhere in their tar.
    """

    kind: Literal["webdataset"] = Field(default="webdataset", description="kind of the source")
    version: ClassVar[int] = 2
    later: ClassVar[frozenset[str]] = Source.later | {"dots_in_keys"}
    archive_roots: ClassVar[bool] = False
    images: tuple[str, ...] = Field(
        default=("jpg", "jpeg", "png", "webp"),
        description="extensions of the images, the first one that a key has is taken",
    )
    masks: tuple[str, ...] | None = Field(
        default=("mask.png", "seg.png"), description="extensions of the masks; null = images without masks"
    )
    dots_in_keys: bool = Field(
        default=False,
        description="let a key end before the longest extension that is known, not at its name's first dot",
    )

    @property
    def _known(self) -> tuple[str, ...]:
        return tuple(sorted({*self.images, *(self.masks or ()), *NOTES}, key=lambda e: (-len(e), e)))

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for tar in root.walk("", PLAIN | PACKED | ZIPS):
            if tar.problem is not None:
                yield Entry(tar.path, tar.stamp, problem=tar.problem)
            else:
                yield from self._tar_entries(root, tar)

    def _tar_entries(self, root: Root, tar: File) -> Iterator[Entry]:
        keys, fault = Spill(), None
        try:
            for member in members(root, tar.path, tar.stamp):
                keys.add([self._split(member)])
        except ContractError as error:
            fault = error.problem
        others: dict[str, list[str]] = {}
        for key, pairs in groupby(keys, key=lambda pair: pair[0]):
            yield from self._entries(tar, key, [tuple(part) for _, part in pairs], others)
        for extension, names in others.items():
            yield Entry(f"{tar.path}/*.{extension}", tar.stamp, problem=self._unread(extension, names))
        if fault is not None:
            yield Entry(f"{tar.path}/", tar.stamp, problem=fault)

    def _split(self, member: Member) -> tuple[str, Part]:
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if self.dots_in_keys and name.count(".") > 1:
            known = next((e for e in self._known if name.lower().endswith(f".{e}")), name.rpartition(".")[2])
            stem, extension = name[: -len(known) - 1], known
        if member.special:
            return member.name, (SPECIAL, 0, 0)
        return f"{folder}{slash}{stem}", (extension.lower(), member.offset, member.size)

    def _entries(self, tar: File, key: str, found: list[Part], others: dict[str, list[str]]) -> Iterator[Entry]:
        """The sample of a key; again where its members are written twice; what has a dot in its key."""
        parts: dict[str, list[int]] = {}
        twice = []
        for extension, offset, size in found:
            if extension in parts:
                twice.append(extension)
            parts.setdefault(extension, [offset, size])
        dotted = sorted({longer for e in parts if (longer := self._longer_key(e)) is not None})
        if dotted and _first(self.images, parts) is None:
            yield from (Entry(f"{tar.path}/{key}", tar.stamp, problem=self._dotted(key, e, parts)) for e in dotted)
            return
        if key.rsplit("/", 1)[-1]:
            yield self._entry(tar, key, parts)
        for extension in (e for e in parts if e not in (*self._known, SPECIAL)):
            others.setdefault(extension if key.rsplit("/", 1)[-1] else "(hidden)", []).append(f"{key}.{extension}")
        if twice:
            written = f"{key}.{{{','.join(twice)}}} again"
            problem = Problem(Reason.DUPLICATE_ID, "every member once", written, "give each sample a key of its own")
            yield Entry(f"{tar.path}/{key}", tar.stamp, problem=problem)

    def _longer_key(self, extension: str) -> str | None:
        """What an extension adds to the key where it ends in one that is known."""
        if extension in self._known:
            return None
        ending = next((e for e in self._known if extension.endswith(f".{e}")), None)
        return None if ending is None else extension[: -len(ending) - 1]

    def _dotted(self, key: str, longer: str, parts: dict[str, list[int]]) -> Problem:
        mine = [e for e in parts if e.startswith(f"{longer}.")]
        found = f"dots in the key: {key}.{longer}.{{{','.join(e[len(longer) + 1 :] for e in mine)}}}"
        fix = "set source.dots_in_keys: true, or write the tar again with other names"
        return Problem(Reason.NOT_READ, f"a key that ends at the first dot, as WebDataset has it ({key})", found, fix)

    def _unread(self, extension: str, names: list[str]) -> Problem:
        found = f"{len(names)} others, e.g. {', '.join(names[:3])}"
        fix = "add the extension to `images` or `masks` if it is one; else leave it"
        return Problem(Reason.NOT_READ, f"members in .{', .'.join(self._known)}", found, fix)

    def _entry(self, tar: File, key: str, parts: dict[str, list[int]]) -> Entry:
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
        root = self.reader()
        parts = {name: _read(root, entry, name) for name in ("image", "mask", *NOTES)}
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
            objects=objects if isinstance(objects := notes.get("instances"), list) else None,
            provenance={"prompt": prompt} | {t: notes[t] for t in TEXTS if isinstance(notes.get(t), str)},
        )


def _first(extensions: tuple[str, ...], parts: dict[str, list[int]]) -> list[int] | None:
    return next((parts[e] for e in extensions if e in parts), None)


def _read(root: Root, entry: Entry, name: str) -> bytes | None:
    place = entry.fields[name]
    return None if place is None else read_member(root, entry.fields["tar"], entry.stamp, *place)


def _notes(data: bytes | None, where: str) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        notes = parse_json(data)
    except TextError as error:
        raise bad_annotation(
            where, "a JSON object in the json member", str(error)[:200], "mend the json member"
        ) from error
    if not isinstance(notes, dict):
        raise bad_annotation(where, "a JSON object in the json member", type(notes).__name__, "mend the json member")
    return notes
