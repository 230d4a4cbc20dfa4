"""A bare folder of photos to masks: contract shards inside, plain PNG files and one page to look at outside."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    PSEUDO_LABEL,
    SAMPLE,
    LabelSpace,
    decode_image,
    decode_mask,
    encode_image,
    list_shards,
    read_shard,
)
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.pages import page_template
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.trainers.engine import resize_image

SHARD_SIZE = 32
PREVIEW_SIDE = 640
FOLDER_OF_STEM = "(?P<group>.*?)/?[^/]+$"


@dataclass(frozen=True)
class Photo:
    """One photo on the page; paths are relative to it."""

    name: str
    class_ids: tuple[int, ...]
    note: str
    mask: str | None = None
    overlay: str | None = None
    reason: str | None = None


def label_photos(
    images: str,
    out_dir: str,
    space: LabelSpace,
    labeler: str = "clip_cam",
    settings: dict[str, Any] | None = None,
    progress: Callable[[str, UnitReport], None] | None = None,
    *,
    by_folder: bool = False,
    how: str = "from class names alone",
    weak: str | None = None,
) -> dict[str, int]:
    """Label every photo under `images`; returns photos by reason (`kept` = labelled). With `by_folder`, photos of one
    folder reach the labeler as one group. `how` is what the page says of the method, `weak` a folder of WeakLabel
    shards with a row for each photo.

    Writes OUT/masks/STEM.png (class ids in the space's palette), OUT/confidence/STEM.png, OUT/overlays/STEM.png,
    OUT/index.html, OUT/classes.json, and the contract shards OUT/samples and OUT/labels, which a second run takes up.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no photo in it, an unknown setting, or a folder whose photos lie around those of another.
        RunLockedError: another process labels into this folder.
    """
    check_photos(images)
    options = {"by_folder": by_folder, "how": how, "weak": weak}
    with working(out_dir):
        return label_held(images, out_dir, space, labeler, settings, progress, **options)  # type: ignore[arg-type]


def label_held(
    images: str,
    out_dir: str,
    space: LabelSpace,
    labeler: str,
    settings: dict[str, Any] | None,
    progress: Callable[[str, UnitReport], None] | None,
    *,
    by_folder: bool = False,
    how: str,
    weak: str | None,
) -> dict[str, int]:
    """`label_photos` for who holds OUT already."""
    groups: dict[str, Any] = {"pattern": FOLDER_OF_STEM, "whole_groups": True} if by_folder else {}
    source = FolderSource(root=images, images="", masks=None, **groups)
    config = LabelConfig(
        labeler=labeler, label_space=space, samples=f"{out_dir}/samples", weak=weak, settings=dict(settings or {})
    )
    config.labeler_config()

    def tell(name: str) -> Callable[[UnitReport], None] | None:
        return None if progress is None else lambda report: progress(name, report)

    map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
    _check_whole_groups(out_dir)
    label(config, f"{out_dir}/labels", progress=tell("label"))
    with Listed(out_dir) as files:
        photos = [*_write_files(Path(out_dir), files, space), *_rejects(out_dir)]
        counts = Counter(photo.reason or "kept" for photo in photos)
        names = {c.id: c.name for c in space.classes}
        files.write("classes.json", (json.dumps(names, indent=1) + "\n").encode())
        files.write("index.html", _page(photos, space, f"{labeler}, {how}", counts).encode())
    return dict(counts)


def _check_whole_groups(out_dir: str) -> None:
    """Raise ValueError where the photos of one group lie in several shards: no labeler would see them together."""
    home: dict[str, str] = {}
    for path in list_shards(f"{out_dir}/samples"):
        for name in {row["group"] for row in read_shard(path, SAMPLE, ["group"]).to_pylist()} - {None}:
            if home.setdefault(name, path) != path:
                raise ValueError(
                    f"folder {name!r}: expected either photos or folders in it, found both mixed; "
                    "move its own photos into a folder of their own"
                )


def _write_files(out: Path, files: Listed, space: LabelSpace) -> Iterator[Photo]:
    stems = Counter(_stem(name) for path in list_shards(str(out / "samples")) for name in _names(path))
    for path in list_shards(str(out / "samples")):
        table = read_shard(str(out / "labels" / Path(path).name), PSEUDO_LABEL)
        labels = {row["sample_id"]: row for row in table.to_pylist()}
        for row in read_shard(path, SAMPLE, ["sample_id", "image", "provenance"]).to_pylist():
            name = str(row["provenance"]["source_path"])
            file = _stem(name) if stems[_stem(name)] == 1 else name  # a.jpg beside a.png keep their suffixes
            yield _write_photo(files, name, file, row["image"]["bytes"], labels[row["sample_id"]], space)


def _names(path: str) -> list[str]:
    rows = read_shard(path, SAMPLE, ["provenance"]).to_pylist()
    return [str(row["provenance"]["source_path"]) for row in rows]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _write_photo(files: Listed, name: str, file: str, data: bytes, found: dict[str, Any], space: LabelSpace) -> Photo:
    if found["mask"] is None:
        return Photo(name, (), found["detail"], reason=found["reason"])
    mask_path, overlay_path = f"masks/{file}.png", f"overlays/{file}.png"
    files.write(mask_path, found["mask"]["bytes"])
    files.write(f"confidence/{file}.png", found["confidence"]["bytes"])
    image, mask = decode_image(data, name), decode_mask(found["mask"]["bytes"], name)
    picture = overlay(image, mask, space)
    factor = min(1.0, PREVIEW_SIDE / max(picture.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    files.write(overlay_path, encode_image(resize_image(picture, height, width)))
    ids = tuple(found["class_ids"])
    shares = ", ".join(f"{space.by_id[i].name} {(mask == i).mean():.0%}" for i in ids) or "background only"
    return Photo(name, ids, shares, mask_path, overlay_path)


def _rejects(out_dir: str) -> Iterator[Photo]:
    for path in list_shards(f"{out_dir}/rejects"):
        for row in read_shard(path, DECISION).to_pylist():
            yield Photo(str(row["source_path"]), (), row["detail"] or "", reason=row["reason"])


def _page(photos: list[Photo], space: LabelSpace, labeler: str, counts: Counter[str]) -> str:
    palette = space.palette
    numbers = Counter(i for photo in photos for i in photo.class_ids)
    classes = [
        (c.name, "rgb({}, {}, {})".format(*palette[3 * c.id : 3 * c.id + 3]), numbers[c.id]) for c in space.classes
    ]
    return page_template("photos.html.j2").render(
        total=len(photos),
        labelled=counts["kept"],
        labeler=labeler,
        left_out=[(reason.replace("_", " "), number) for reason, number in counts.items() if reason != "kept"],
        classes=[entry for entry in classes if entry[2] or len(classes) <= 25],
        cards=photos,
    )
