"""The manifest of a dataset: what is in it, made from what, by which config and versions, under which licences."""

import json

from pydantic import BaseModel, ConfigDict

from maskmill.data_contracts.shards import Footer
from maskmill.data_contracts.storage import write_if_changed
from maskmill.data_contracts.sums import checked_json, read_json


class ShardEntry(BaseModel):
    """One shard of a dataset."""

    model_config = ConfigDict(extra="forbid")

    path: str
    rows: int
    content: str
    fingerprint: str

    @classmethod
    def of(cls, path: str, footer: Footer) -> "ShardEntry":
        return cls(path=path, rows=footer.rows, content=footer.content, fingerprint=footer.fingerprint)


class Manifest(BaseModel):
    """Counts, hashes, config, versions, licences and lineage. Holds no clock time: the same inputs give the same
    bytes.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    counts: dict[str, int]  # rows by reason; kept + every rejection = rows that came in
    class_counts: dict[str, int]  # kept samples by class name
    shards: list[ShardEntry]
    label_space: str
    config: dict[str, object]
    config_hash: str
    versions: dict[str, str]
    licences: list[str]
    files: dict[str, str] = {}  # hash of every other file of a run by its path, but those that carry their own
    lineage: list[str]  # stages with their config hashes, in the order in which data passed them

    def write(self, path: str) -> None:
        """Write as JSON that carries its own hash, atomically, unless it is there."""
        write_if_changed(path, self.text())

    def text(self) -> bytes:
        """The JSON text; keys are sorted at every depth."""
        plain = json.loads(json.dumps(self.model_dump(mode="json"), sort_keys=True))
        return checked_json({key: value for key, value in plain.items() if key != "files" or value})

    @classmethod
    def read(cls, path: str) -> "Manifest":
        return cls.model_validate(read_json(path))
