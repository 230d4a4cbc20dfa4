"""The text bank: rows, masks and the masked softmax."""

from pathlib import Path

import pytest
import torch

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.vision.clip import ClipBackbone, TextBank, build_text_bank, load_clip

DATA = Path(__file__).parents[1] / "data"
SPACE = LabelSpace.from_names(["cat", "dog", "horse"])

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone() -> ClipBackbone:
    return load_clip(str(DATA / "tiny_clip"))


@pytest.mark.parametrize(("name", "classes", "background"), [("voc", 20, 25), ("coco", 80, 23)])
def test_rows_of_the_built_in_spaces(backbone: ClipBackbone, name: str, classes: int, background: int) -> None:
    bank = build_text_bank(load_label_space(name), backbone)
    assert bank.matrix.shape == (classes + background, 64)
    assert bank.matrix.dtype == torch.float32
    torch.testing.assert_close(bank.matrix.norm(dim=-1), torch.ones(classes + background))
    assert bank.n_background == background
    if name == "coco":
        assert not {"keyboard", "sign"} & set(bank.texts[classes:])


def test_masked_softmax_over_the_bank_equals_the_images_own_text_list(backbone: ClipBackbone) -> None:
    bank = build_text_bank(load_label_space("voc"), backbone)
    labels = [[8], [12, 15], [1, 13, 20]]
    embeddings = torch.nn.functional.normalize(torch.randn(3, 64), dim=-1)
    log_p = bank.log_probabilities(embeddings, bank.allowed(labels), 100.0)
    for row, ids in enumerate(labels):
        own = torch.cat([bank.matrix[bank.rows(ids)], bank.matrix[20:]])
        expected = (100.0 * embeddings[row] @ own.T).softmax(dim=-1)
        found = torch.cat([log_p[row, bank.rows(ids)], log_p[row, 20:]]).exp()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert float(log_p[0].exp()[bank.rows([9])]) == 0.0  # an absent foreground class never competes


def test_more_background_never_lets_an_absent_class_compete(backbone: ClipBackbone) -> None:
    small = SPACE.model_copy(update={"background_prompts": ("sky",)})
    large = SPACE.model_copy(update={"background_prompts": ("sky", "grass", "wall")})
    for space in (small, large):
        bank = build_text_bank(space, backbone)
        log_p = bank.log_probabilities(bank.matrix[:1], bank.allowed([[1]]), 100.0).exp()
        assert log_p[0, bank.rows([2, 3])].tolist() == [0.0, 0.0]


def test_templates_and_synonyms_are_averaged_and_renormalised(backbone: ClipBackbone) -> None:
    space = load_label_space("voc")
    row = build_text_bank(space, backbone, ("a {}.", "the {}.")).matrix[0]
    both = backbone.encode_text(["a aeroplane.", "the aeroplane."]).mean(dim=0)
    torch.testing.assert_close(row, both / both.norm())
    plane = space.by_id[1]
    row = build_text_bank(space, backbone, ("a {}.",), synonyms=True).matrix[0]
    words = backbone.encode_text([f"a {w}." for w in (plane.text, *plane.synonyms)]).mean(dim=0)
    torch.testing.assert_close(row, words / words.norm())


def test_disk_cache_returns_the_same_bits_and_depends_on_texts(backbone: ClipBackbone, tmp_path: Path) -> None:
    first = build_text_bank(SPACE, backbone, cache_dir=str(tmp_path))
    again = build_text_bank(SPACE, backbone, cache_dir=str(tmp_path))
    assert torch.equal(first.matrix, again.matrix)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    build_text_bank(SPACE, backbone, ("a {}.",), cache_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_errors_name_what_is_wrong(backbone: ClipBackbone) -> None:
    bank: TextBank = build_text_bank(SPACE, backbone)
    with pytest.raises(ValueError, match=r"\[9\].*\[1, 2, 3\]"):
        bank.rows([1, 9])
    with pytest.raises(ValueError, match="exactly one"):
        build_text_bank(SPACE, backbone, ("no place",))
