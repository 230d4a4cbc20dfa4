"""WebDataset: one tar a shard and split; the same samples give the same bytes."""

import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.features import FEATURES, yaml_features
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split, png_note


class WebDatasetExport(Exporter):
    """Tars `<split>-00000.tar` of `<id>.jpg`, `<id>.mask.png` (class ids, 255 = ignore) and `<id>.json`.

    Every image is named `.jpg`, PNGs too (readers go by what a file holds): loaders want the same keys of each sample.
    Masks are grey PNGs, not palette ones: webdataset's image decoders would turn a palette into colours.
    Every sample shard gives one tar for every split, an empty one where no sample falls into it: numbers have no gaps,
    so `train-{00000..00041}.tar` always holds.
    """

    format: Literal["webdataset"] = Field(default="webdataset", description="name of the export format")
    version: ClassVar[int] = 2
    loading: ClassVar[str] = (
        "import glob\n\nimport numpy as np\nimport webdataset as wds\n\n"
        'tars = sorted(glob.glob("<this folder>/train-*.tar"))\n'
        'dataset = wds.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "mask.png", "json")\n'
        "image, mask, row = next(iter(dataset))\n"
        "ids = np.asarray(mask)[..., 0]  # webdataset turns grey into RGB; every channel holds the ids, 255 = ignore"
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        members: dict[str, list[tuple[str, bytes]]] = {split: [] for split in self.splits}
        records: list[Record] = []
        for sample in samples:
            members[sample.split] += _members(sample, space)
            png = sample.suffix == ".png"
            records.append({"sample_id": sample.sample_id, "split": sample.split, "png": png})
        number = shard.rsplit("-", 1)[-1]
        return ShardFiles({f"{split}-{number}.tar": _tar(found) for split, found in members.items()}, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        return {}

    def header(self, records: list[Record], space: LabelSpace) -> dict[str, Any]:
        """YAML keys of the card for `datasets`, which would otherwise guess the kinds of the JSON's values from five
        samples.
        """
        splits = [name for name, rows in by_split(records, self.splits).items() if rows]
        files = [{"split": name, "path": f"{name}-*.tar"} for name in splits]
        row = {name: feature for name, feature in FEATURES.items() if name not in ("image", "mask")}
        image, text = {"_type": "Image"}, {"_type": "Value", "dtype": "string"}
        columns = {"jpg": image, "mask.png": image, "json": row, "__key__": text, "__url__": text}
        info = {"features": yaml_features(columns)}
        return {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}

    def notes(self, records: list[Record]) -> list[str]:
        return png_note(records)


def _members(sample: ExportSample, space: LabelSpace) -> Iterable[tuple[str, bytes]]:
    yield sample.jpeg_name, sample.image
    if sample.row["mask"] is not None:
        yield f"{sample.sample_id}.mask.png", encode_mask(sample.mask)
    facts = {key: value for key, value in sample.row.items() if key not in ("image", "mask")}
    yield f"{sample.sample_id}.json", json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()


def _tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)  # owner 0, time 0: nothing of the host gets into the bytes
            entry.size = len(data)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
