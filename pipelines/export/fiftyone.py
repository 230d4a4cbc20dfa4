"""FiftyOne's own dataset folder: samples with masks; scores, decision, reason and prompt as fields to sort by."""

import json
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.data_contracts import IGNORE, LabelSpace, content_id, encode_mask, sample_seed
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles

FORMAT_VERSION = "0.23.8"  # of FiftyOne, whose layout this is; later ones migrate it as they import it
MASKS = "fields/ground_truth"  # where FiftyOne itself puts the files of a field
OID = 24  # hex digits of a document's id
EPOCH = {"$date": "1970-01-01T00:00:00Z"}  # the importer puts its own time in its place; ours would change the bytes
CORE = "fiftyone.core"
SCORES = {"image_score": "image_score", "pcs": "pcs", "h_orig": "entropy", "asf": "asf", "ignore_fraction": "undecided"}
TEXTS = ("maskmill_id", "decision", "reason", "detail", "prompt", "source_path", "licence")
NUMBERS = (*SCORES.values(), "score", "threshold")


class FiftyOneExport(Exporter):
    """`metadata.json`, `samples.json`, `data/` and `fields/ground_truth/`, as FiftyOne's `FiftyOneDataset` has them.

    Masks are PNGs of class ids; `mask_targets` names them. Splits are tags. Scores, the decision with its reason, the
    number that decided and its threshold, the prompt and the path in the source are fields of each sample. With
    `rejected` what was turned away is there, too, to be looked at; such a folder is no training set.
    """

    format: Literal["fiftyone"] = Field(default="fiftyone", description="name of the export format")
    rejected: bool = Field(default=False, description="also samples that selection turned away")
    version: ClassVar[int] = 1
    values: ClassVar[str] = "Masks hold class ids, named by `mask_targets`; 255 means ignore."
    loading: ClassVar[str] = (
        "import fiftyone as fo\n\n"
        'dataset = fo.Dataset.from_dir("<this folder>", dataset_type=fo.types.FiftyOneDataset)\n'
        'session = fo.launch_app(dataset.sort_by("asf"))  # the worst masks first'
    )
    wants_scores: ClassVar[bool] = True

    @property
    def takes_rejected(self) -> bool:
        return self.rejected

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for sample in samples:
            files[image := f"data/{sample.image_name}"] = sample.image
            mask = None
            if sample.row["mask"] is not None:
                files[mask := f"{MASKS}/{sample.sample_id}.png"] = encode_mask(sample.mask)
            document = _document(sample, image, mask, space)
            kept = bool((sample.decision or {}).get("kept", True))
            records.append({"sample_id": sample.sample_id, "split": sample.split, "kept": kept, "document": document})
        return ShardFiles(files, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        home = {"$oid": content_id(facts.title, facts.config_hash)[:OID]}
        samples = [{**record["document"], "_dataset_id": home} for record in records]
        found = {"metadata.json": _metadata(home, space, facts), "samples.json": {"samples": samples}}
        return {name: json.dumps(data, ensure_ascii=False).encode() for name, data in found.items()}

    def notes(self, records: list[Record]) -> list[str]:
        away = sum(not record["kept"] for record in records)
        said = [f"{away:,} samples here were turned away: their field `decision` is `rejected`."] if away else []
        return [*said, "Every sample has its split as a tag; `maskmill_id` is its id in the run."]


def _document(sample: ExportSample, image: str, mask: str | None, space: LabelSpace) -> dict[str, Any]:
    """A sample as FiftyOne stores it; paths are relative to the export's folder."""
    height, width = sample.size
    decision, scores = sample.decision or {}, sample.scores or {}
    kind = "image/png" if sample.suffix == ".png" else "image/jpeg"
    metadata = {"_cls": "ImageMetadata", "size_bytes": len(sample.image), "mime_type": kind}
    origin = sample.row["provenance"]
    texts = {
        "maskmill_id": sample.sample_id,
        "decision": "kept" if decision.get("kept", True) else "rejected",
        "prompt": origin["prompt"],
        "source_path": sample.source_path or None,
        "licence": origin["licence"],
        **{name: decision.get(name) for name in ("reason", "detail")},
    }
    numbers = {title: scores.get(name) for name, title in SCORES.items()}
    numbers |= {name: decision.get(name) for name in ("score", "threshold")}
    segmentation: dict[str, Any] = {
        "_id": _oid(sample.sample_id, "mask"),
        "_cls": "Segmentation",
        "tags": [],
        "mask_path": mask,
    }
    return {
        "_id": _oid(sample.sample_id, "sample"),
        "filepath": image,
        "tags": [sample.split],
        "metadata": {**metadata, "width": width, "height": height, "num_channels": 3},
        "_media_type": "image",
        "_rand": sample_seed(0, sample.sample_id, "fiftyone") / 2**63,
        "ground_truth": None if mask is None else segmentation,
        "classes": [space.by_id[i].name for i in sample.row["class_ids"] if i in space.by_id],
        **texts,
        **numbers,
    }


def _oid(sample_id: str, what: str) -> dict[str, str]:
    return {"$oid": content_id(sample_id, what)[:OID]}


def _metadata(home: dict[str, str], space: LabelSpace, facts: Facts) -> dict[str, Any]:
    """The dataset's document: its fields, and what mask values mean."""
    names = {str(i): space.by_id[i].name for i in space.ids}
    if space.background_id is not None:
        names = {str(space.background_id): "background", **names}
    names[str(IGNORE)] = "ignored"
    about = {"description": facts.description, "licences": facts.licences, "config_hash": facts.config_hash}
    app = {"media_fields": ["filepath"], "grid_media_field": "filepath", "modal_media_field": "filepath", "plugins": {}}
    return {
        "_id": home,
        "name": facts.title,
        "slug": "-".join("".join(c if c.isalnum() else " " for c in facts.title.lower()).split()) or "maskmill",
        "version": FORMAT_VERSION,
        "created_at": EPOCH,
        "last_loaded_at": EPOCH,
        "sample_collection_name": f"samples.{home['$oid']}",
        "persistent": False,
        "media_type": "image",
        "group_media_types": {},
        "tags": [],
        "info": about,
        "app_config": app,
        "classes": {"classes": [space.by_id[i].name for i in space.ids]},
        "default_classes": [],
        "mask_targets": {"ground_truth": names},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": _fields(),
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _fields() -> list[dict[str, Any]]:
    """The schema of a sample."""
    text = f"{CORE}.fields.StringField"
    whole = [_field(name, "Int") for name in ("size_bytes", "width", "height", "num_channels")]
    image = [whole[0], _field("mime_type", "String"), *whole[1:]]
    mask = [
        _field("id", "ObjectId", db_field="_id"),
        _field("tags", "List", subfield=text),
        _field("mask", "Array"),
        _field("mask_path", "String"),
    ]
    embedded = "EmbeddedDocument"
    return [
        _field("id", "ObjectId", db_field="_id"),
        _field("filepath", "String"),
        _field("tags", "List", subfield=text),
        _field("metadata", embedded, embedded_doc_type=f"{CORE}.metadata.ImageMetadata", fields=image),
        _field("ground_truth", embedded, embedded_doc_type=f"{CORE}.labels.Segmentation", fields=mask),
        _field("classes", "List", subfield=text),
        *(_field(name, "String") for name in TEXTS),
        *(_field(name, "Float") for name in NUMBERS),
    ]


def _field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "embedded_doc_type": None,
        "subfield": None,
        "fields": [],
        "db_field": name,
        "description": None,
    }
    return {"name": name, "ftype": f"{CORE}.fields.{kind}Field", **usual, "info": None, **more}
