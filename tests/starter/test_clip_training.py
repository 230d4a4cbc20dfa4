"""What the starter CLIP's training rests on: WordNet's graph, the vocabulary, the start and the lessons."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from maskmill.starter.clip_training.photos import spoil
from maskmill.starter.clip_training.regions import in_training_part
from maskmill.starter.clip_training.vocabulary import Placement
from maskmill.starter.clip_training.wordnet import WordNet, read_wordnet

DATA_NOUN = """  1 licence text
00000001 03 n 01 entity 0 000 | that which exists; "examples"
00000002 05 n 01 animal 0 001 @ 00000001 n 0000 | a living thing
00000003 05 n 02 dog 0 domestic_dog 0 001 @ 00000002 n 0000 | a barking animal
00000004 05 n 01 cat 0 001 @ 00000002 n 0000 | a meowing animal
00000005 05 n 01 puppy 0 001 @ 00000003 n 0000 | a young dog
00000006 05 n 01 fox 0 001 @ 00000002 n 0000 | a sly animal
00000007 07 n 01 dog 0 001 @ 00000001 n 0000 | something that cannot be seen
"""
INDEX_NOUN = """  1 licence text
entity n 1 0 1 0 00000001
animal n 1 1 @ 1 1 00000002
dog n 2 1 @ 2 1 00000003 00000007
domestic_dog n 1 1 @ 1 0 00000003
cat n 1 1 @ 1 1 00000004
puppy n 1 1 @ 1 0 00000005
fox n 1 1 @ 1 0 00000006
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(DATA_NOUN)
    (tmp_path / "index.noun").write_text(INDEX_NOUN)
    return read_wordnet(tmp_path)


@pytest.fixture
def placement(wordnet: WordNet) -> Placement:
    ids = ["n00000003", "n00000004", "n00000006"]
    vectors = functional.normalize(torch.tensor([[1.0, 0.1, 0], [0, 1.0, 0], [0.9, 0.2, 0.1]]), dim=1)
    return Placement(wordnet, ids[:2], torch.eye(2), ids, vectors, vectors)


def test_wordnet_is_read_as_a_graph(wordnet: WordNet) -> None:
    assert wordnet.synsets["n00000003"].names == ("dog", "domestic dog")
    assert wordnet.senses["dog"] == ("n00000003", "n00000007")
    assert wordnet.frequency["dog"] == 1
    assert wordnet.synsets["n00000001"].definition == "that which exists"
    assert wordnet.descendants("n00000002") == {f"n0000000{i}" for i in (2, 3, 4, 5, 6)}
    assert wordnet.ancestors("n00000005") == {f"n0000000{i}" for i in (5, 3, 2, 1)}
    assert not wordnet.synsets["n00000007"].visible


def test_missing_wordnet_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wordnet-base"):
        read_wordnet(tmp_path)


def test_names_go_where_classes_put_them(placement: Placement) -> None:
    dog, cat = placement.rows
    named, puppy, animal = (placement.of_name(name) for name in ("dog", "puppy", "animal"))
    assert named is not None
    assert puppy is not None
    assert animal is not None
    torch.testing.assert_close(named, dog)
    torch.testing.assert_close(puppy, dog)
    torch.testing.assert_close(animal, functional.normalize(dog + cat, dim=0))
    assert placement.of_name("no such noun") is None


def test_other_nouns_go_to_what_they_resemble(placement: Placement) -> None:
    fox = placement.of_name("fox")
    assert fox is not None
    assert fox @ placement.rows[0] > fox @ placement.rows[1]


def test_scrambling_moves_pixels_and_blur_flattens() -> None:
    image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(1))
    scrambled = spoil(image, "scramble", random.Random(3))
    torch.testing.assert_close(scrambled.flatten().sort().values, image.flatten().sort().values)
    assert not torch.equal(scrambled, image)
    assert spoil(image, "blur", random.Random(0)).std() < 0.2 * image.std()
    assert torch.equal(spoil(image, "noise", random.Random(0)), spoil(image, "noise", random.Random(0)))


def test_seven_tenths_of_stems_may_be_learnt_from() -> None:
    share = sum(in_training_part(f"stem{i}") for i in range(2000)) / 2000
    assert 0.65 < share < 0.75
