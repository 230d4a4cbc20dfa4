"""Folder source: pairing, colours, and the account of everything that can be wrong with a folder."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_sets import VOC, Row, ingest, label_map, make_folder, mask_of, photo, put, reasons
from ingest_sets import folder_source as source
from PIL import Image

from maskmill.data_contracts import LabelSpace, encode_image, encode_mask, load_label_space
from maskmill.pipelines.core.stage import map_units, why_run
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource


def test_pairs_by_stem_in_nested_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["b", "deep/er/a", "a.with.dots"], value=3)
    samples, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert not rejects
    paths = [row["provenance"]["source_path"] for row in samples]
    assert paths == sorted(paths) == ["images/a.with.dots.jpg", "images/b.jpg", "images/deep/er/a.jpg"]
    row = samples[0]
    assert row["image"]["bytes"] == (tmp_path / "set/images/a.with.dots.jpg").read_bytes()
    assert (row["height"], row["width"], row["class_ids"], row["prompt_class_ids"]) == (12, 16, [3], None)
    assert row["provenance"]["source"] == "folder"
    assert np.array_equal(mask_of(row), label_map(3))
    assert Image.open(io.BytesIO(row["mask"]["bytes"])).getpalette()[:768] == VOC.palette


def nasty_folder(root: Path) -> dict[str, str]:
    """Faults of every kind beside sound pairs; returns the reason expected for each path."""
    make_folder(root, ["good1", "good2", "zoo/good3"])
    sound = encode_mask(label_map())
    outside = put(root.parent / "secret.png", encode_mask(label_map(2)))
    for stem in (
        "no_mask",
        "cut",
        "text",
        "huge",
        "mask_cut",
        "small_mask",
        "unknown",
        "empty",
        "link",
        "twins",
        "colour",
        "wide",
    ):
        put(root / f"images/{stem}.jpg", photo(sum(stem.encode())))
        put(root / f"masks/{stem}.png", sound)
    (root / "masks/no_mask.png").unlink()
    put(root / "masks/no_image.png", sound)
    put(root / "images/cut.jpg", photo(1)[:-200])
    put(root / "images/text.jpg", "this is no photo")
    put(root / "images/huge.jpg", photo(2, 300, 300))
    put(root / "masks/mask_cut.png", sound[: len(sound) // 2])
    put(root / "masks/small_mask.png", encode_mask(label_map(1, 11, 16)))
    put(root / "masks/unknown.png", encode_mask(label_map(77)))
    put(root / "masks/empty.png", encode_mask(np.zeros((12, 16), np.uint8)))
    (root / "masks/link.png").unlink()
    (root / "masks/link.png").symlink_to(outside)
    put(root / "masks/twins.bmp", sound)
    put(root / "masks/colour.png", encode_image(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)))
    wide = io.BytesIO()
    Image.fromarray(np.full((12, 16), 300, np.uint16)).save(wide, format="PNG")
    put(root / "masks/wide.png", wide.getvalue())
    put(root / "images/again.jpg", (root / "images/good1.jpg").read_bytes())
    put(root / "masks/again.png", sound)
    (root / "images/away").symlink_to(root.parent, target_is_directory=True)
    put(root / "images/notes.txt", "not an image")
    put(root / "images/.hidden.jpg", "nor this for us")
    return {
        "images/no_mask.jpg": "missing_mask",
        "masks/no_image.png": "missing_image",
        "images/cut.jpg": "undecodable_image",
        "images/text.jpg": "undecodable_image",
        "images/huge.jpg": "image_too_large",
        "images/mask_cut.jpg": "undecodable_mask",
        "images/small_mask.jpg": "size_mismatch",
        "images/unknown.jpg": "unknown_mask_id",
        "images/empty.jpg": "empty_foreground",
        "images/link.jpg": "unsafe_path",
        "images/twins.jpg": "bad_annotation",
        "images/colour.jpg": "wrong_mask_format",
        "images/wide.jpg": "wrong_mask_format",
        "images/good1.jpg": "duplicate_id",  # "again" sorts before it
        "images/away/": "unsafe_path",
        "images/notes.txt": "not_read",
        "images/.hidden.jpg": "not_read",
    }


def test_every_fault_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    expected = nasty_folder(tmp_path / "set")
    samples, rejects = ingest(source(tmp_path / "set", max_pixels=80_000), tmp_path / "run", shard_size=100)
    assert reasons(rejects) == expected
    assert [row["provenance"]["source_path"] for row in samples] == [
        "images/again.jpg",
        "images/good2.jpg",
        "images/zoo/good3.jpg",
    ]
    by_path = {row["source_path"]: row for row in rejects}
    assert "id 77 on 42 pixels" in by_path["images/unknown.jpg"]["detail"]
    assert by_path["images/good1.jpg"]["duplicate_of"] == samples[0]["sample_id"]
    assert all(row["stage"] == "ingest" and not row["kept"] and "Fix: " in row["detail"] for row in rejects)
    for size in (1, 3):
        again, lost = ingest(source(tmp_path / "set", max_pixels=80_000), tmp_path / f"run{size}", shard_size=size)
        assert len(again) + len(lost) == len(expected) + 3


def test_details_do_not_change_from_run_to_run(tmp_path: Path) -> None:
    nasty_folder(tmp_path / "set")
    first, second = (ingest(source(tmp_path / "set"), tmp_path / name) for name in ("a", "b"))
    assert first == second


def test_threads_and_shard_size_change_no_row(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", [f"s{i:02d}" for i in range(11)])
    one, _ = ingest(source(tmp_path / "set", threads=1), tmp_path / "a", shard_size=11)
    many, _ = ingest(source(tmp_path / "set", threads=8), tmp_path / "b", shard_size=2)
    assert one == many


def test_moved_data_keeps_its_ids_and_is_not_ingested_again(tmp_path: Path) -> None:
    make_folder(tmp_path / "here", ["a", "b"])
    before, _ = ingest(source(tmp_path / "here"), tmp_path / "run")
    os.rename(tmp_path / "here", tmp_path / "there")
    moved = source(tmp_path / "there", threads=2)
    units = ingest_units(moved, str(tmp_path / "run"), 4)
    assert [why_run(ingest_stage(moved, VOC), unit) for unit in units] == [None]
    after, _ = ingest(moved, tmp_path / "run2")
    assert before == after


def test_a_touched_file_redoes_its_shard_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", [f"s{i}" for i in range(9)])
    ingest(source(tmp_path / "set"), tmp_path / "run", shard_size=3)
    put(tmp_path / "set/masks/s4.png", encode_mask(label_map(9)))
    units = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 3)
    reports = map_units(ingest_stage(source(tmp_path / "set"), VOC), units)
    assert [report.status for report in reports] == ["skipped", "written", "skipped"]


def test_changed_options_and_class_names_ingest_again_but_prompts_do_not(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    ingest(source(tmp_path / "set"), tmp_path / "run")
    (unit,) = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 4)
    renamed = VOC.model_copy(
        update={"classes": (VOC.classes[0].model_copy(update={"name": "glider"}), *VOC.classes[1:])}
    )
    prompted = VOC.model_copy(
        update={"classes": (VOC.classes[0].model_copy(update={"prompt": "jet"}), *VOC.classes[1:])}
    )
    assert why_run(ingest_stage(source(tmp_path / "set"), prompted), unit) is None
    assert why_run(ingest_stage(source(tmp_path / "set"), renamed), unit) is not None
    assert why_run(ingest_stage(source(tmp_path / "set", remap={5: 7}), VOC), unit) is not None


def test_files_changed_between_listing_and_loading_are_an_error_not_a_row(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    units = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 4)
    put(tmp_path / "set/images/a.jpg", photo(99, 20, 20))
    ingest_units(source(tmp_path / "set"), str(tmp_path / "other"), 4)  # someone lists anew
    with pytest.raises(RuntimeError, match="run again"):
        map_units(ingest_stage(source(tmp_path / "set"), VOC), units)


def test_stage_and_units_can_be_sent_to_another_process(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    units = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 1)
    stage, sent = pickle.loads(pickle.dumps((ingest_stage(source(tmp_path / "set"), VOC), units)))
    assert [report.counts for report in map_units(stage, sent)] == [{"kept": 1}] * 2


def test_a_dataset_that_shrank_under_a_unit_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b", "c"])
    units = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 1)
    for stem in "bc":
        (tmp_path / f"set/images/{stem}.jpg").unlink()
        (tmp_path / f"set/masks/{stem}.png").unlink()
    ingest_units(source(tmp_path / "set"), str(tmp_path / "other"), 1)
    with pytest.raises(RuntimeError, match="run again"):
        map_units(ingest_stage(source(tmp_path / "set"), VOC), units[2:])


def test_a_process_without_a_listing_makes_its_own(tmp_path: Path) -> None:
    from maskmill.pipelines.ingest import stage

    make_folder(tmp_path / "set", ["a", "b", "c"])
    units = ingest_units(source(tmp_path / "set"), str(tmp_path / "run"), 2)
    stage._listings.clear()
    reports = map_units(ingest_stage(source(tmp_path / "set"), VOC), units[1:])
    assert reports[0].counts == {"kept": 1}


def test_remap_ignore_ids_and_names(tmp_path: Path) -> None:
    camvid = load_label_space("camvid")
    make_folder(tmp_path / "set", ["a"], value=11)
    (row,), _ = ingest(source(tmp_path / "set"), tmp_path / "run", camvid)
    assert row["class_ids"] == [0]
    assert set(np.unique(mask_of(row))) == {0, 255}
    (row,), _ = ingest(source(tmp_path / "set", remap={11: "car", 0: "ignore"}), tmp_path / "run2", camvid)
    assert row["class_ids"] == [8]
    assert set(np.unique(mask_of(row))) == {8, 255}
    swap = source(tmp_path / "set", remap={11: 0, 0: 11 - 3})
    (row,), _ = ingest(swap, tmp_path / "run3", camvid)
    assert np.array_equal(mask_of(row), np.where(label_map() == 1, 0, 8))  # all values at once, not one after the other


def test_a_target_that_the_space_lacks_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="unicorn"):
        ingest_stage(source(tmp_path, remap={1: "unicorn"}), VOC)
    with pytest.raises(ValueError, match="id 90"):
        ingest_stage(source(tmp_path, remap={1: 90}), VOC)


def test_colour_masks(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[2:5, 3:9] = (0, 128, 64)
    put(tmp_path / "set/masks/a.png", encode_image(picture))
    picture[0, 0] = (9, 9, 9)
    put(tmp_path / "set/masks/b.png", encode_image(picture))
    colours = {"0,128,64": "dog", "0,0,0": "background"}
    (row,), (lost,) = ingest(source(tmp_path / "set", colours=colours), tmp_path / "run")
    assert np.array_equal(mask_of(row) == VOC.find("dog").id, (picture == (0, 128, 64)).all(-1))
    assert lost["reason"] == "unknown_mask_id"
    assert "colour 9,9,9 on 1 pixels" in lost["detail"]


@pytest.mark.parametrize("colour", ["1,2", "red", "1,2,300", "1,2,3,4"])
def test_odd_colours_are_refused(colour: str) -> None:
    with pytest.raises(ValueError, match="colours"):
        FolderSource(root=".", colours={colour: 1})


def test_images_without_masks(tmp_path: Path) -> None:
    put(tmp_path / "set/pictures/a.png", photo(kind="PNG"))
    (row,), _ = ingest(source(tmp_path / "set", images="pictures", masks=None), tmp_path / "run")
    assert row["mask"] is None
    assert row["class_ids"] == []


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        put(tmp_path / f"set/{stem}.png", photo(sum(stem.encode()), kind="PNG"))
        put(tmp_path / f"set/{stem}_mask.png", encode_mask(label_map()))
    put(tmp_path / "set/lost_mask.png", encode_mask(label_map()))
    samples, rejects = ingest(source(tmp_path / "set", images="", masks="", mask_suffix="_mask"), tmp_path / "run")
    assert [row["provenance"]["source_path"] for row in samples] == ["a.png", "b.png"]
    assert reasons(rejects) == {"lost_mask.png": "missing_image"}


@pytest.mark.parametrize(
    "options",
    [
        {"images": "x", "masks": "x"},
        {"group_by": "parent", "pattern": "(?P<group>a)"},
        {"names_by_group": {"a": "cat"}},
        {"pattern": "no groups"},
        {"unknown": 1},
        {"max_pixels": 0},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FolderSource.model_validate({"root": ".", **options})


def test_missing_folders_and_empty_ones_say_what_is_there(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    with pytest.raises(FileNotFoundError, match=r"no folder 'pics'.*images.*masks"):
        ingest_units(source(tmp_path / "set", images="pics"), str(tmp_path / "run"), 4)
    with pytest.raises(FileNotFoundError, match="check `root`"):
        ingest_units(source(tmp_path / "nowhere"), str(tmp_path / "run"), 4)
    (tmp_path / "bare/images").mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing to ingest"):
        ingest_units(source(tmp_path / "bare", masks=None), str(tmp_path / "run"), 4)


def test_folders_of_other_names_are_told_as_the_line_to_copy(tmp_path: Path) -> None:
    for folder in ("Annotations/dog", "JPEGImages/dog", "lists"):
        (tmp_path / "davis" / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"source.images=JPEGImages --set source.masks=Annotations$"):
        next(source(tmp_path / "davis").entries())
    with pytest.raises(FileNotFoundError, match=r"no folder 'masks' in there.*\n  --set source.masks=Annotations$"):
        next(source(tmp_path / "davis", images="JPEGImages").entries())
    (tmp_path / "odd" / "one").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"source.images=DIR --set source.masks=DIR$"):
        next(source(tmp_path / "odd").entries())


def test_links_inside_the_root_pass_and_outside_only_when_allowed(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    make_folder(tmp_path / "else", ["b/c", "d"], value=5)
    (tmp_path / "set/images/copy.jpg").symlink_to("a.jpg")
    put(tmp_path / "set/masks/copy.png", encode_mask(label_map(2)))
    (tmp_path / "set/images/b").symlink_to(tmp_path / "else/images/b")
    (tmp_path / "set/masks/b").symlink_to(tmp_path / "else/masks/b")
    (tmp_path / "set/images/loop").symlink_to(tmp_path / "set")
    samples, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 2
    assert reasons(rejects) == {"images/b/": "unsafe_path", "images/loop/": "unsafe_path"}
    samples, rejects = ingest(source(tmp_path / "set", follow_links=True), tmp_path / "run2")
    assert len(samples) == 3
    assert reasons(rejects) == {"images/loop/": "unsafe_path"}


def test_file_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    with open(os.fsencode(tmp_path / "set/images") + b"/\xff\xfe.jpg", "wb") as handle:
        handle.write(photo())
    samples, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 1
    assert reasons(rejects) == {"images/\\xff\\xfe.jpg": "unsafe_path"}


def test_turned_photos_are_measured_upright_and_kept_as_they_are(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo(0, 12, 16))).save(buffer, format="JPEG", exif=exif)
    put(tmp_path / "set/images/a.jpg", buffer.getvalue())
    put(tmp_path / "set/masks/a.png", encode_mask(label_map(1, 16, 12)))
    (row,), _ = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert (row["height"], row["width"]) == (16, 12)
    assert row["image"]["bytes"] == buffer.getvalue()


SPACE = LabelSpace.from_names(["one", "two", "three"])
some_values = st.sampled_from([0, 1, 2, 3, 4, 77, 254, 255])
rows_of_values = st.lists(st.lists(some_values, min_size=5, max_size=5), min_size=4, max_size=4)
remaps = st.dictionaries(some_values, st.sampled_from([0, 1, 2, 3, 255]))


@settings(max_examples=40, deadline=None)
@given(values=rows_of_values, remap=remaps)
def test_a_mask_passes_exactly_when_all_its_values_are_known(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[int]], remap: dict[int, int]
) -> None:
    root = tmp_path_factory.mktemp("set")
    mask = np.array(values, np.uint8)
    put(root / "images/a.png", photo(0, 4, 5, "PNG"))
    put(root / "masks/a.png", encode_mask(mask, SPACE.palette))  # grey ones of 0 and 255 alone are asked about
    samples, rejects = ingest(source(root, remap=remap, allow_empty=True), root / "run", SPACE)
    wanted = np.vectorize(lambda v: remap.get(int(v), int(v)))(mask)
    assert bool(samples) == (set(wanted.ravel().tolist()) <= {0, 1, 2, 3, 255})
    row: Row
    for row in samples:
        assert np.array_equal(mask_of(row), wanted)
    for row in rejects:
        assert row["reason"] == "unknown_mask_id"
