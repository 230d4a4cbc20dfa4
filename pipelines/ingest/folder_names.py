"""Folders of photos and of masks: the names that data sets give them, and what to say where they are not there."""

from collections.abc import Iterator
from pathlib import Path

from maskmill.pipelines.ingest.files import Root

PHOTOS = ("images", "image", "imgs", "img", "jpegimages", "photos", "frames", "leftimg8bit", "rgb", "inputs")
MASKS = ("masks", "mask", "annotations", "segmentationclass", "segmentations", "labels", "label", "gtfine", "gt")


def check_folders(root: Root, images: str, masks: str | None) -> None:
    """See that both folders are there.

    Raises:
        FileNotFoundError: one is not; says what there is, and the keys to set.
    """
    lacking = [folder for folder in (images, masks) if folder and not root.has_folder(folder)]
    if not lacking:
        return
    there = root.folders()
    none = " and ".join(f"no folder {folder!r}" for folder in lacking)
    say = " ".join(_settings(there, images, masks))
    raise FileNotFoundError(f"{root.url}: {none} in there; found {there[:8]}. Say which hold what:\n  {say}")


def _settings(there: list[str], images: str, masks: str | None) -> Iterator[str]:
    """The options that name the folders; `DIR` where no name tells."""
    for key, folder, known in (("images", images, PHOTOS), ("masks", masks, MASKS)):
        if folder and folder not in there:
            found = [name for word in known for name in there if name.lower() == word]
            yield f"--set source.{key}={found[0] if found else 'DIR'}"


def check_photos(images: str) -> None:
    """See that photos can be looked for below a local folder.

    Raises:
        FileNotFoundError: nothing there, or a file.
    """
    place = Path(images)
    if not place.is_dir():
        found = f"a file; name the folder that holds it ({place.parent})" if place.exists() else "nothing there"
        raise FileNotFoundError(f"{images}: expected a folder of photos, found {found}")
