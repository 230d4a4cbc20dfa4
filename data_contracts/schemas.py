"""Arrow schemas of every hand-over. One row a sample; scores and decisions carry no pixels and join on `sample_id`."""

import json
from dataclasses import dataclass

import pyarrow as pa

from maskmill.data_contracts.errors import ContractError, Problem, Reason

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IDS = pa.list_(pa.int32())

PROVENANCE = pa.struct(
    [
        ("source", pa.string()),  # ingest source (folder, voc, coco, ...) or generator family
        ("source_path", pa.string()),  # path of the image inside its source
        ("licence", pa.string()),
        ("model_id", pa.string()),
        ("model_revision", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("class_prompt", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int32()),
        ("guidance", pa.float32()),
        ("scheduler", pa.string()),
        ("extra", pa.string()),  # JSON object: everything else needed to make the sample again
    ]
)
BOX = pa.struct([("class_id", pa.int32()), *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1"))])
POINT = pa.struct([("class_id", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])
CLASS_SCORE = pa.struct([("class_id", pa.int32()), ("iou", pa.float32())])
INSTANCE = pa.struct(
    [
        ("class_id", pa.int32()),
        ("box", pa.struct([(name, pa.float32()) for name in ("x0", "y0", "x1", "y1")])),  # pixels, x0 <= x < x1
        ("rle", pa.string()),  # COCO's compressed run lengths, height x width of the row; null = only the box is known
        ("score", pa.float32()),
        ("crowd", pa.bool_()),  # a region of many objects: ignore in the mask
        ("source_id", pa.string()),  # its id in the source's own files
    ]
)


@dataclass(frozen=True)
class Contract:
    """A named, versioned table layout. `files` are the columns that hold encoded images, `required` those without
    nulls, `later` those that shards from before lack: read back, they are null.

    Arrow fields stay nullable: `datasets` does not see an image in a struct column that is not.
    """

    name: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def table(self, rows: list[dict[str, object]]) -> pa.Table:
        """Rows to a table of exactly this schema.

        Raises:
            ContractError: a column that the contract does not know, or a value that does not fit.
        """
        known = set(self.schema.names)
        for row in rows:
            if unknown := set(row) - known:
                raise self._error(str(row.get("sample_id")), f"columns {sorted(known)}", f"also {sorted(unknown)}")
        try:
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise self._error(self.name, str(self.schema), str(error)) from error
        self.check(table)
        return table

    def check(self, table: pa.Table, where: str | None = None) -> None:
        """Check column names, types and that required columns hold no null.

        Raises:
            ContractError: names the shard, the column, the type expected and the type found.
        """
        where = where or self.name
        for field in self.schema:
            if field.name not in table.column_names:
                raise self._error(where, f"column {field.name}", f"columns {table.column_names}")
            column = table.column(field.name)
            if column.type != field.type:
                raise self._error(where, f"{field.name}: {field.type}", str(column.type))
            if field.name in self.required and column.null_count:
                raise self._error(where, f"{field.name} without nulls", f"{column.null_count} nulls")

    def _error(self, where: str, expected: str, found: str) -> ContractError:
        fix = f"write rows through data_contracts.{self.name.upper()} (version {self.version})"
        return ContractError(where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))


def _contract(
    name: str, version: int, fields: list[pa.Field], files: tuple[str, ...] = (), later: tuple[str, ...] = ()
) -> Contract:
    features = {field.name: _feature(field.type, field.name in files) for field in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    schema = pa.schema([field.with_nullable(True) for field in fields], metadata=metadata)
    return Contract(name, version, schema, files, tuple(field.name for field in fields if not field.nullable), later)


def _feature(kind: pa.DataType, is_file: bool = False) -> dict[str, object]:
    """Hugging Face feature description of an Arrow type, so that `datasets` decodes our image columns as they are."""
    if is_file:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        if kind == FILE:
            return {"_type": "Image"}
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_ID = _required("sample_id", pa.string())

SAMPLE = _contract(
    "sample",
    1,
    [
        _ID,
        _required("image", FILE),
        pa.field("mask", FILE),  # PNG of class ids, 255 = ignore
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("class_ids", IDS),  # foreground ids in the mask, ascending
        pa.field("prompt_class_ids", IDS),  # what the image was asked to show; null where nothing says so
        pa.field("group", pa.string()),  # clip, volume or co-saliency group
        pa.field("index", pa.int32()),  # frame or slice inside the group
        pa.field("spacing", pa.list_(pa.float32())),  # mm per pixel (slice, row, column), volumes only
        _required("provenance", PROVENANCE),
        pa.field("instances", pa.list_(INSTANCE)),  # objects told apart; null where nobody did
    ],
    files=("image", "mask"),
    later=("instances",),
)
WEAK_LABEL = _contract(
    "weak_label",
    1,
    [
        _ID,
        pa.field("class_ids", IDS),  # image tags
        pa.field("boxes", pa.list_(BOX)),  # pixels, x0 <= x < x1
        pa.field("scribble", FILE),  # PNG of class ids, 255 = not annotated
        pa.field("points", pa.list_(POINT)),
    ],
    files=("scribble",),
)
SCORE = _contract(
    "score",
    1,
    [
        _ID,
        _required("label_ids", IDS),  # the classes that competed: prompt labels where there are any, else mask labels
        pa.field("h_orig", pa.float32()),  # entropy of the class distribution, nats
        pa.field("h_mix", pa.float32()),  # the same after shuffling tiles (mean over permutations)
        pa.field("pcs", pa.float32()),  # |h_orig - h_mix|
        pa.field("image_score", pa.float32()),  # the configured image score; equals pcs in faithful mode
        pa.field("asf", pa.float32()),  # the configured mask score; faithful: pooled IoU with CLIP's mask
        pa.field("per_class", pa.list_(CLASS_SCORE)),
        pa.field("n_classes", pa.int32()),
        pa.field("ignore_fraction", pa.float32()),  # share of the pseudo-mask that CLIP left undecided
        pa.field("swap_class_id", pa.int32()),  # an absent class that CLIP prefers to a labelled one
        pa.field("embedding", pa.list_(pa.float32())),  # unit image embedding
        pa.field("reason", pa.string()),  # set when the sample could not be scored
        pa.field("detail", pa.string()),
    ],
)
DECISION = _contract(
    "decision",
    1,
    [
        _ID,
        _required("stage", pa.string()),
        _required("kept", pa.bool_()),
        _required("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("score", pa.float32()),  # the number that decided
        pa.field("threshold", pa.float32()),  # what it was held against
        pa.field("duplicate_of", pa.string()),
        pa.field("source_path", pa.string()),
        pa.field("shard", pa.string()),  # file name of the Sample shard that holds the row
    ],
)
PSEUDO_LABEL = _contract(
    "pseudo_label",
    1,
    [
        _ID,
        pa.field("mask", FILE),  # PNG of class ids, 255 = abstained
        pa.field("confidence", FILE),  # grey PNG, 255 = certain
        _required("class_ids", IDS),
        pa.field("instances", pa.list_(INSTANCE)),  # objects told apart; null where the labeler does not
        _required("labeler", pa.string()),
        _required("labeler_version", pa.string()),
        pa.field("reason", pa.string()),  # set when the labeler abstained from the whole sample
        pa.field("detail", pa.string()),
    ],
    files=("mask", "confidence"),
)
PROMPT = _contract(
    "prompt",
    1,
    [
        _ID,
        _required("prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        _required("class_prompt", pa.string()),
        _required("class_ids", IDS),
        pa.field("scene", pa.string()),
        _required("seed", pa.int64()),
    ],
)
NEIGHBOUR = _contract(
    "neighbour",
    1,
    [
        _ID,
        _required("other_id", pa.string()),
        _required("similarity", pa.float32()),  # cosine of the two embeddings
        _required("other_set", pa.string()),  # "self", or the name of the set checked for leakage
    ],
)
CONTRACTS = {c.name: c for c in (SAMPLE, WEAK_LABEL, SCORE, DECISION, PSEUDO_LABEL, PROMPT, NEIGHBOUR)}
