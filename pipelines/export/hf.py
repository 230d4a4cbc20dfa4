"""Hugging Face Parquet: contract rows, in a folder a split, with dataset card and Croissant metadata."""

import hashlib
import json
import posixpath
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from maskmill.data_contracts import SAMPLE, LabelSpace
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.features import FEATURES, hex_colour, with_classes, yaml_features
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split

NESTED = frozenset(("provenance", "instances"))  # Croissant has no words for their structs
CROISSANT_TYPES = {
    "string": "sc:Text",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "float32": "cr:Float32",
    "bool": "sc:Boolean",
}


class HfExport(Exporter):
    """`data/<split>/shard-00000.parquet` with the columns of the Sample contract; `datasets` decodes image and mask.

    Masks are those that were ingested; so are images, but for those that a loader would see other than the pipeline did
    (see `portable_image`): they are PNG. `croissant.json` describes the same
    files for mlcroissant.
    """

    format: Literal["hf"] = Field(default="hf", description="name of the export format")
    version: ClassVar[int] = 2
    loading: ClassVar[str] = (
        "from datasets import load_dataset\n\n"
        'dataset = load_dataset("<this folder>", split="train")\n'
        'row = dataset[0]  # row["image"], row["mask"]: PIL images; mask values are class ids, 255 = ignore'
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        rows: dict[str, list[dict[str, object]]] = {}
        for sample in samples:
            rows.setdefault(sample.split, []).append({**sample.row, "image": _image(sample)})
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for split, kept in sorted(rows.items()):
            path = f"data/{split}/{shard}.parquet"
            files[path] = _parquet(SAMPLE.table(kept))
            source = {"file": path, "sha256": hashlib.sha256(files[path]).hexdigest(), "bytes": len(files[path])}
            records += [{"sample_id": row["sample_id"], "split": split, **source} for row in kept]
        return ShardFiles(files, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        return {"croissant.json": (json.dumps(croissant(records, facts), indent=2) + "\n").encode()}

    def header(self, records: list[Record], space: LabelSpace) -> dict[str, Any]:
        """YAML keys of the card that `datasets` reads: where the splits are, their features and sizes. Class ids are
        ClassLabels with their names; `class_colours` has the colour of each name, as `datasets` has no place for it.
        """
        splits = {name: rows for name, rows in by_split(records, self.splits).items() if rows}
        files = [{"split": name, "path": f"data/{name}/*.parquet"} for name in splits]
        sizes: list[dict[str, Any]] = [
            {"name": name, "num_bytes": _bytes(rows), "num_examples": len(rows)} for name, rows in splits.items()
        ]
        total = sum(size["num_bytes"] for size in sizes)
        info = {
            "features": yaml_features(with_classes(FEATURES, space)),
            "splits": sizes,
            "download_size": total,
            "dataset_size": total,
        }
        colours = {entry.name: hex_colour(entry.id, space) for entry in space.classes}
        configs = [{"config_name": "default", "data_files": files}]
        return {"configs": configs, "dataset_info": info, "class_colours": colours}


def _image(sample: ExportSample) -> dict[str, object]:
    """Bytes and file name of an image; the name has another suffix where the bytes became PNG."""
    name = sample.row["image"]["path"]
    if name is not None and sample.image != sample.row["image"]["bytes"]:
        name = posixpath.splitext(name)[0] + sample.suffix
    return {"bytes": sample.image, "path": name}


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # Images are compressed already; small row groups let viewers fetch a page of them.
    pq.write_table(table, sink, compression="none", row_group_size=100)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _bytes(rows: list[Record]) -> int:
    return sum({row["file"]: int(row["bytes"]) for row in rows}.values())


def croissant(records: list[Record], facts: Facts) -> dict[str, Any]:
    """Croissant 1.0 JSON-LD of an export: its Parquet files and one record set, `samples`.

    The file set reads from the folder that holds `croissant.json`: mlcroissant does not read a set of single files.
    Croissant wants a URL and a date for published data; whoever publishes adds them.
    """
    digests = {str(record["file"]): str(record["sha256"]) for record in records}
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "encodingFormat": "application/x-parquet",
            "sha256": digest,
        }
        for path, digest in sorted(digests.items())
    ]
    parquet = {
        "@type": "cr:FileSet",
        "@id": "parquet-files",
        "name": "parquet-files",
        "description": "All shards of all splits.",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*/*.parquet",
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "description": facts.description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": facts.licences,
        **_review(facts),
        "distribution": [*objects, parquet],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "key": {"@id": "samples/sample_id"},
                "field": [_field(column, feature) for column, feature in FEATURES.items() if column not in NESTED],
            }
        ],
    }


def _review(facts: Facts) -> dict[str, str]:
    """What people said, in the words that Croissant has for work by hand."""
    review = facts.ledger.review
    return {"rai:dataAnnotationProtocol": f"{review.words} Their verdicts override scores."} if review else {}


def _field(column: str, feature: dict[str, Any]) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": "parquet-files"}, "extract": {"column": column}}
    field = {"@type": "cr:Field", "@id": f"samples/{column}", "name": column, "source": source}
    if feature["_type"] == "Image":
        source["transform"] = {"jsonPath": "bytes"}
        return {**field, "dataType": "sc:ImageObject"}
    if feature["_type"] == "List":
        return {**field, "dataType": CROISSANT_TYPES[feature["feature"]["dtype"]], "repeated": True}
    return {**field, "dataType": CROISSANT_TYPES[feature["dtype"]]}


_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
