"""Prompt sets: balance by construction, contract rows, captions."""

from collections import Counter
from itertools import pairwise

import pytest

from maskmill.data_contracts import PROMPT, load_label_space, read_shard
from maskmill.generators.prompts import (
    CaptionConfig,
    PromptConfig,
    append_classes,
    deal_classes,
    prompts_from_captions,
    prompts_from_classes,
)
from maskmill.pipelines.stages.generate import write_prompts

VOC = load_label_space("voc")


def mentions(rows):
    return Counter(c for row in rows for c in row["class_ids"])


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 2), (3,), (1, 2, 3)])
def test_every_class_is_asked_for_equally_often(sizes):
    rows = prompts_from_classes(VOC, PromptConfig(classes_per_prompt=sizes), per_class=7, seed=3)
    assert mentions(rows) == dict.fromkeys(VOC.ids, 7)
    assert all(len(set(row["class_ids"])) == len(row["class_ids"]) for row in rows)
    # every beginning of the set is balanced to within the classes of a deck that is being dealt
    counts = mentions(rows[: len(rows) // 2])
    assert max(counts.values()) - min(counts[c] for c in VOC.ids) <= 2


def test_dealing_unequal_mentions_is_exact():
    wanted = {1: 5, 2: 1, 3: 9}
    groups = deal_classes(wanted, (2,), seed=0)
    assert Counter(c for g in groups for c in g) == wanted
    assert all(len(set(g)) == len(g) <= 2 for g in groups)


def test_a_prompt_set_is_a_stored_contract(tmp_path):
    config = PromptConfig(
        classes=("dog", "tv monitor"),
        templates=("a photo of {objects}", "a painting of {objects}"),
        attributes=("", "small", "old"),
        scenes=("grass", "road"),
        counts=(1, 2),
        negative_prompt="blurry",
    )
    rows = prompts_from_classes(VOC, config, per_class=10, seed=1)
    paths = write_prompts(str(tmp_path), rows, per_shard=8)
    stored = [row for path in paths for row in read_shard(path, PROMPT).to_pylist()]
    assert stored == rows
    assert len(paths) == 3
    assert len({row["sample_id"] for row in rows}) == len({row["seed"] for row in rows}) == 20
    for row in rows:
        assert row["prompt"].endswith("; " + row["class_prompt"])
        assert row["class_prompt"] in ("dog", "tv monitor")
        assert row["scene"] in row["prompt"]
    assert len({row["prompt"] for row in rows}) > 8


def test_rows_do_not_depend_on_how_many_are_made():
    config = PromptConfig(scenes=("grass", "road", "sky"))
    few = prompts_from_classes(VOC, config, per_class=1, seed=5)
    many = prompts_from_classes(VOC, config, per_class=3, seed=5)
    assert many[: len(few)] == few
    assert prompts_from_classes(VOC, config, per_class=1, seed=6) != few


def test_class_words_are_appended_once():
    once = append_classes("A man riding a horse.", "person horse")
    assert once == "A man riding a horse; person horse"
    assert append_classes(once, "person horse") == once


def test_captions_become_prompts_and_the_rest_is_returned():
    captions = [
        "A dog and two cats on a couch.",
        "",
        "An empty road at night",
        "Dog, cat, cow, horse, sheep, bird, bus",
    ]
    rows, left_out = prompts_from_captions(captions, VOC, CaptionConfig(max_classes=5), seed=0)
    assert [row["class_prompt"] for row in rows] == ["dog cat sofa"]
    assert rows[0]["class_ids"] == [12, 8, 18]
    assert left_out == [captions[2], captions[3]]
    PROMPT.table(rows)


def test_words_can_be_replaced():
    rows = prompts_from_classes(VOC, PromptConfig(classes=("aeroplane",), words={"aeroplane": "airplane"}), 1, seed=0)
    assert rows[0]["prompt"] == "a photo of an airplane; airplane"
    with pytest.raises(KeyError, match="known: aeroplane"):
        PromptConfig(classes=("dragon",)).class_ids(VOC)


def test_kinds_vary_what_captions_say_and_the_class_stays():
    kinds = {"bird": ("", "parrot", "eagle"), "dog": ("poodle",), "cat": ()}
    config = PromptConfig(classes=("bird", "dog", "cat"), kinds=kinds, attributes=("", "old"))
    rows = prompts_from_classes(VOC, config, per_class=12, seed=1)
    said = {}
    for row in rows:
        caption, _, appended = row["prompt"].partition("; ")
        assert appended == row["class_prompt"], "maps are read against the class"
        said.setdefault(appended, set()).add(caption.removeprefix("a photo of ").split()[-1])
    assert said == {"bird": {"bird", "parrot", "eagle"}, "dog": {"poodle"}, "cat": {"cat"}}
    assert any("an old poodle" in row["prompt"] for row in rows)
    without = prompts_from_classes(VOC, config.model_copy(update={"kinds": {}}), per_class=12, seed=1)
    assert [r for r in rows if r["class_prompt"] == "cat"] == [r for r in without if r["class_prompt"] == "cat"]
    with pytest.raises(KeyError, match="unicorn"):
        prompts_from_classes(VOC, PromptConfig(kinds={"unicorn": ("a",)}), 1, seed=0)


def test_no_two_neighbours_of_a_deck_are_the_same_class():
    groups = deal_classes(dict.fromkeys(range(1, 6), 20), (1,), seed=2)
    assert sum(a == b for a, b in pairwise(groups)) <= 4
