"""An archive is read like the folder that is packed in it."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from ingest_sets import folder_source as source
from ingest_sets import ingest, label_map, make_folder, photo, put

from maskmill.data_contracts import encode_mask


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("top", ["", "./", "set/", "./set/"])
def test_an_archive_is_the_folder_that_is_packed_in_it(tmp_path: Path, kind: str, top: str) -> None:
    plain = make_folder(tmp_path / "plain", ["a", "deep/b"])
    put(plain / "images/notes.txt", "x")
    path = tmp_path / f"set.{kind}"
    files = [file for file in sorted(plain.rglob("*")) if file.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"{top}{file.relative_to(plain)}")
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:  # type: ignore[call-overload]
            for file in files:
                archive.add(file, f"{top}{file.relative_to(plain)}")
    assert ingest(source(path), tmp_path / "run") == ingest(source(plain), tmp_path / "plain_run")


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    put(tmp_path / "set.zip", "no archive")
    with pytest.raises(ValueError, match=r"set\.zip: no whole archive"):
        ingest(source(tmp_path / "set.zip"), tmp_path / "run")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_an_archive_is_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for seed in (1, 2):
            archive.writestr("images/a.jpg", photo(seed))
        archive.writestr("masks/a.png", encode_mask(label_map()))
    (row,), (lost,) = ingest(source(tmp_path / "set.zip"), tmp_path / "run")
    assert row["image"]["bytes"] == photo(2)
    assert (lost["source_path"], lost["reason"]) == ("images/a.jpg (again)", "not_read")


def test_a_hostile_zip_opens_nothing_outside(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg", photo(9))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("images/../../secret.jpg", photo())
        archive.writestr("images/a.jpg", photo())
        archive.writestr("masks/a.png", encode_mask(label_map()))
    samples, _ = ingest(source(tmp_path / "set.zip"), tmp_path / "run")
    assert [row["provenance"]["source_path"] for row in samples] == ["images/a.jpg"]
