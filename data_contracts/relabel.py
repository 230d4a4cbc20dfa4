"""A class of a mask that is another class: what a person said in review, and what it makes of a row."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.data_contracts.images import Uint8Array, encode_mask
from maskmill.data_contracts.label_files import decode_mask
from maskmill.data_contracts.texts import parse_json

NOTED = "relabelled"  # key in a row's provenance: what its mask said before, and what it says now


@dataclass(frozen=True)
class Relabel:
    """What the mask calls `from_id` is `to_id`; `from_id` None: so is every class of the mask. Background and ignored
    pixels stay what they are.
    """

    from_id: int | None
    to_id: int

    @classmethod
    def of(cls, decision: Mapping[str, Any]) -> "Relabel | None":
        """The one that a row of the DECISION contract carries."""
        to_id = decision.get("relabel_to")
        return None if to_id is None else cls(decision.get("relabel_from"), int(to_id))

    def _meant(self, class_id: int) -> bool:
        return self.from_id is None or class_id == self.from_id

    def ids(self, class_ids: Iterable[int]) -> list[int]:
        """Class ids, ascending, as they are now."""
        return sorted({self.to_id if self._meant(i) else i for i in class_ids})

    def pairs(self, class_ids: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """Which of the classes that a mask shows became which."""
        return tuple((i, self.to_id) for i in class_ids if self._meant(i) and i != self.to_id)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A Sample row as it is now: mask, classes and objects; its provenance says what the mask said before. Its
        `sample_id` stays that of what was ingested.
        """
        before: list[int] = row["class_ids"]
        new = {**row, "class_ids": self.ids(before)}
        if row["mask"] is not None and row["mask"]["bytes"] is not None:
            mask = decode_mask(row["mask"]["bytes"], f"mask of sample {row['sample_id']}")
            new["mask"] = {**row["mask"], "bytes": encode_mask(remapped(mask, self.pairs(before)))}
        if row.get("instances") is not None:
            entries: list[dict[str, Any]] = row["instances"]
            new["instances"] = [{**one, "class_id": self.ids([one["class_id"]])[0]} for one in entries]
        noted = {"from": [old for old, _ in self.pairs(before)], "to": self.to_id}
        new["provenance"] = {**row["provenance"], "extra": _with(row["provenance"].get("extra"), noted)}
        return new


def remapped(mask: Uint8Array, pairs: Iterable[tuple[int, int]]) -> Uint8Array:
    """A mask uint8 (H, W) in which some ids became others."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in pairs:
        table[old] = new
    return table[mask]


def _with(extra: str | None, noted: dict[str, Any]) -> str:
    """A provenance's JSON with what was done to the mask; text of others that is no object is kept as text."""
    try:
        known = parse_json(extra) if extra else {}
    except ValueError:
        known = extra
    held = known if isinstance(known, dict) else {"extra": known}
    return json.dumps({**held, NOTED: noted}, sort_keys=True)
