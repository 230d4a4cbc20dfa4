"""Content hashes and per-sample seeds: the two things that make a result independent of batch, order, shard and
worker.
"""

import hashlib
import json

from pydantic import BaseModel

DIGEST_BYTES = 16
FOR_HASH = {"for_hash": True}
"""Context of a dump that will be hashed: options that came later and change nothing are left out (`WithPresets`)."""


def content_id(*parts: bytes | str | None) -> str:
    """Hash `parts` to 32 hex digits.

    Every part is length-prefixed, so ("ab", "c") and ("a", "bc") differ; None differs from an empty part.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        if part is None:
            digest.update(b"\xff" * 8)
            continue
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class ContentHash:
    """`content_id` of one part whose length is known beforehand and whose bytes come piece by piece."""

    closed = False

    def __init__(self, size: int) -> None:
        self._digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=DIGEST_BYTES)

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes, as a file would; returns how many."""
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def hexdigest(self) -> str:
        """The hash, as `content_id` gives it."""
        return self._digest.hexdigest()


def storable(text: str) -> str:
    """`text` as UTF-8 can hold it: halves of a character (JSON's lone surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode()


def pair_id(image: bytes, mask: bytes | None, group: str | None = None, index: int | None = None) -> str:
    """`sample_id` of an image–mask pair: hash of the two files as a Sample row holds them and of its group."""
    return content_id(image, mask, group, None if index is None else str(index))


def sample_seed(seed: int, sample_id: str, purpose: str = "") -> int:
    """Seed in [0, 2**63) for one sample: a hash of the run's seed, the sample's id and what the numbers are for."""
    digest = hashlib.blake2b(f"{seed}|{sample_id}|{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def config_hash(config: BaseModel | dict[str, object]) -> str:
    """Hash of a config's canonical JSON; equal configs give equal hashes whatever the order of their keys."""
    data = config.model_dump(mode="json", context=FOR_HASH) if isinstance(config, BaseModel) else config
    return content_id(json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True))
