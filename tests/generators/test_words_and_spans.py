"""Class words in prompts, and where they lie among the tokens."""

import random

import pytest
from small_pipelines import full_clip_tokenizer

from maskmill.data_contracts import ContractError, load_label_space
from maskmill.generators.spans import Window, class_spans, encode, fit_prompt, lineup_spans, occurrences
from maskmill.generators.text_to_image import names_of
from maskmill.generators.words import class_words, classes_in, counted, plural
from maskmill.starter.generator_training.models import make_tokenizer
from tests.generators.small_families import gemma_tokenizer, qwen_tokenizer


@pytest.fixture(scope="module")
def clip():
    return full_clip_tokenizer()


@pytest.mark.parametrize("space_name", ["voc", "coco"])
def test_span_of_every_class_alone_reads_as_its_name(clip, space_name):
    for class_id, word in class_words(load_label_space(space_name)).items():
        prompt = class_spans(Window.clip(clip), [word], [class_id])
        tokens = clip(word).input_ids
        ((first, end),) = prompt.spans
        assert (first, end) == (1, len(tokens) - 1)
        assert clip.decode(tokens[first:end]).strip() == word


@pytest.mark.parametrize("space_name", ["voc", "coco"])
def test_spans_in_mixed_orders_read_as_the_names(clip, space_name):
    words = class_words(load_label_space(space_name))
    rng = random.Random(0)
    for _ in range(50):
        ids = rng.sample(sorted(words), 4)
        prompt = class_spans(Window.clip(clip), [words[i] for i in ids], ids)
        tokens = clip(prompt.text).input_ids
        assert [clip.decode(tokens[a:b]).strip() for a, b in prompt.spans] == [words[i] for i in ids]
        assert prompt.spans[-1][1] == len(tokens) - 1


def test_multi_piece_and_compound_names_cover_several_tokens(clip):
    prompt = class_spans(Window.clip(clip), ["aeroplane", "dining table", "dog"], [1, 11, 12])
    widths = [end - first for first, end in prompt.spans]
    assert widths[0] >= 2
    assert widths[1] == 2
    assert prompt.spans[2][0] == 1 + widths[0] + widths[1]


def test_starter_tokenizer_agrees_with_clip_on_its_words_and_reads_any_text(clip, tmp_path):
    small = make_tokenizer(tmp_path)
    assert len(small) < 2000
    for name in ("voc", "coco"):
        for word in class_words(load_label_space(name)).values():
            pieces = [small.convert_ids_to_tokens(encode(small, w)) for w in (word, plural(word))]
            assert pieces == [clip.convert_ids_to_tokens(encode(clip, w)) for w in (word, plural(word))]
    for text in ("Zürich 猫 ß xylophone", "quokka-farm 2027!"):
        assert small.decode(encode(small, text)).replace(" ", "") == text.lower().replace(" ", "")
        assert small.unk_token_id not in encode(small, text)


@pytest.mark.parametrize(("make", "start"), [(gemma_tokenizer, 1), (qwen_tokenizer, 0)])
def test_a_blank_may_belong_to_the_word_behind_it(make, start):
    window = Window(make(), 32, start)
    prompt = class_spans(window, ["dog", "potted plant"], [12, 16])
    assert prompt.spans == ((start, start + 1), (start + 1, start + 3))
    assert lineup_spans(window, prompt, ["dog", "potted plant"], ["cat"]).spans[2] == (start + 3, start + 4)
    found = occurrences(window, "dog and cat; dog", ["dog", "cat"])
    assert found == [[start, start + 4], [start + 2]]


def test_bad_class_prompts_are_refused(clip):
    with pytest.raises(ContractError, match="different classes"):
        class_spans(Window.clip(clip), ["dog", "dog"], [12, 12])
    with pytest.raises(ContractError, match="different classes"):
        class_spans(Window.clip(clip), [], [])
    with pytest.raises(ContractError, match="at most 75 tokens"):
        class_spans(Window.clip(clip), [f"dog{i} cat" for i in range(40)], list(range(1, 41)))


def test_long_captions_lose_words_but_never_classes(clip):
    prompt, cut = fit_prompt(Window.clip(clip), "very " * 200 + "long; dog potted plant", "dog potted plant")
    assert cut
    assert len(encode(clip, prompt)) <= 75
    assert prompt.endswith("; dog potted plant")
    assert fit_prompt(Window.clip(clip), "a dog; dog", "dog") == ("a dog; dog", False)


def test_names_are_found_again_in_a_class_prompt():
    voc = load_label_space("voc")
    assert names_of("potted plant dog", [16, 12], voc) == ("potted plant", "dog")
    assert names_of("airplane person", [1, 15], voc) == ("airplane", "person")
    assert names_of("pooch", [12], voc) == ("pooch",)
    with pytest.raises(ContractError, match="names of classes"):
        names_of("a big brown dog", [12], voc)


def test_classes_are_found_in_captions_longest_name_first():
    coco = load_label_space("coco")
    names = {label.name: label.id for label in coco.classes}
    assert classes_in("Two hot dogs on a dining table", coco) == [names["hot dog"], names["dining table"]]
    assert classes_in("People walking their dogs past a bus", coco) == [names["person"], names["dog"], names["bus"]]
    assert classes_in("catalogue of carpets", coco) == []


def test_counting_words():
    assert counted("aeroplane") == "an aeroplane"
    assert counted("person", 2) == "two people"
    assert counted("bus", 3, "red") == "three red buses"
    assert plural("dining table") == "dining tables"


def test_words_that_end_in_y() -> None:
    assert [plural(word) for word in ("butterfly", "toy", "wild pony")] == ["butterflies", "toys", "wild ponies"]
