"""Hashes: equal for equal things, different for different ones, the same on every machine."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.data_contracts import config_hash, content_id, load_label_space, pair_id, sample_seed

parts = st.lists(st.none() | st.binary(max_size=12) | st.text(max_size=8), max_size=5)


def canonical(items: list[bytes | str | None]) -> list[bytes | None]:
    return [i.encode() if isinstance(i, str) else i for i in items]


@settings(max_examples=60, deadline=None)
@given(parts, parts)
def test_content_ids_are_equal_exactly_for_equal_parts(
    one: list[bytes | str | None], other: list[bytes | str | None]
) -> None:
    assert (content_id(*one) == content_id(*other)) == (canonical(one) == canonical(other))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=10), st.integers(0, 10))
def test_a_text_cut_in_two_is_another_thing(text: str, cut: int) -> None:
    assert content_id(text) != content_id(text[:cut], text[cut:])


def test_ids_are_pinned() -> None:
    """Ids and seeds stand in people's shards: a change here makes every one of them stale."""
    assert content_id("a", b"b", None) == "d53d899e6aebf4c1e847670be7b28543"
    assert pair_id(b"image", b"mask", "clip", 3) == content_id(b"image", b"mask", "clip", "3")
    assert pair_id(b"image", None) == content_id(b"image", None, None, None)
    assert sample_seed(1, "ab", "tiles") == 8065810162064286874


@settings(max_examples=60, deadline=None)
@given(st.binary(), st.none() | st.binary(), st.none() | st.text(), st.none() | st.integers(0, 2**31 - 1))
def test_pair_ids_see_group_and_index(image: bytes, mask: bytes | None, group: str | None, index: int | None) -> None:
    base = pair_id(image, mask, group, index)
    assert len(base) == 32
    assert base != pair_id(image, mask, (group or "") + "x", index)
    assert base != pair_id(image, mask, group, (index or 0) + 1)
    assert base != pair_id(image + b"\0", mask, group, index)


@settings(max_examples=60, deadline=None)
@given(st.integers(), st.text(max_size=8), st.text(max_size=8))
def test_seeds_fit_every_generator(seed: int, sample: str, purpose: str) -> None:
    found = sample_seed(seed, sample, purpose)
    assert 0 <= found < 2**63
    assert found == sample_seed(seed, sample, purpose)
    assert found != sample_seed(seed + 1, sample, purpose)


def test_seeds_are_spread() -> None:
    """No two of many samples share one, and every bit is set about half the time."""
    seeds = [sample_seed(0, f"s{i}") for i in range(4000)]
    assert len(set(seeds)) == len(seeds)
    for bit in range(63):
        share = sum(s >> bit & 1 for s in seeds) / len(seeds)
        assert 0.45 < share < 0.55


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), values, max_size=5), st.randoms())
def test_config_hash_does_not_see_the_order_of_keys(config: dict[str, object], draw: random.Random) -> None:
    keys = list(config)
    draw.shuffle(keys)
    assert config_hash({k: config[k] for k in keys}) == config_hash(config)
    assert config_hash({**config, "one more": 1}) != config_hash(config)


def test_models_hash_like_their_values() -> None:
    space = load_label_space("voc")
    assert config_hash(space) == config_hash(space.model_dump(mode="json")) == space.fingerprint
