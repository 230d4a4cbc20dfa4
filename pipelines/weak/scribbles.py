"""Stage `scribbles`: Sample shards and drawn strokes in, WeakLabel shards out, one of the same name for each.

Strokes come as PNG maps (255 or another code = not annotated; ACDC's and S-DUTS' codings), as ScribbleSup's XML of
polylines, or are simulated from the samples' masks.
"""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    DECISION,
    IGNORE,
    SAMPLE,
    WEAK_LABEL,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    check_mask,
    config_hash,
    content_id,
    decode_mask,
    encode_mask,
    foreground_ids,
    list_shards,
    load_label_space,
    read_shard,
    write_shard,
)
from maskmill.data_contracts.label_files import coloured, decode_labels
from maskmill.data_contracts.labels import AnySpace
from maskmill.pipelines.core.stage import Stage, StageResult, Unit, UnitReport, map_units
from maskmill.pipelines.ingest.base import class_value
from maskmill.pipelines.ingest.files import Root, path_problem
from maskmill.pipelines.weak.scribble_xml import parse_scribble_xml
from maskmill.vision.scribbles import SimulateConfig, rasterise, simulate_scribble

STAGE = "scribbles"
VERSION = 1
PIXELS = ["sample_id", "mask", "height", "width", "provenance"]
CODINGS: dict[str, dict[int, int]] = {"plain": {}, "acdc": {4: IGNORE}, "sduts": {0: IGNORE, 1: 1, 2: 0}}
CHANNELS = ("red", "green", "blue")
Row = dict[str, Any]


class ScribbleConfig(BaseModel):
    """Where strokes come from. A sample's scribble has its image's path, without `images`, under `folder`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "scribbles"

    samples: str = Field(description="folder of SAMPLE shards")
    label_space: AnySpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    kind: Literal["png", "xml", "simulated"] = Field(
        default="png",
        description="png: maps of ids; xml: ScribbleSup's polylines; simulated: strokes drawn from the samples' "
        "own masks",
    )
    root: str = Field(default="", description="local folder or fsspec URL; nothing outside it is opened")
    folder: str = Field(default="scribbles", description="folder of the scribbles under the root")
    images: str = Field(default="images", description="folder that the samples' paths begin with")
    suffix: str = Field(default="", description="what a scribble's stem has after the image's, e.g. \"_scribble\"")
    coding: Literal["plain", "acdc", "sduts"] = Field(
        default="plain", description="plain: 255 = not annotated; acdc: 4; sduts: 0, with 1 object and 2 background"
    )
    channel: Literal["red", "green", "blue"] | None = Field(
        default=None,
        description="of coloured PNGs: the channel that holds the values; null = coloured ones are rejected",
    )
    remap: dict[int, int | str] = Field(default={}, description="value -> class id, name, background or ignore")
    line_width: int = Field(default=3, ge=1, description="of xml strokes, in pixels of the image")
    simulate: SimulateConfig = Field(default=SimulateConfig(), description="how strokes are simulated")
    seed: int = Field(default=0, description="of simulated strokes")

    @property
    def space(self) -> LabelSpace:
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space


def scribbles_units(config: ScribbleConfig, out_dir: str) -> list[Unit]:
    """One unit a Sample shard; `samples/X.parquet` gives `out_dir/weak/X.parquet` and `out_dir/rejects/X.parquet`.

    A unit depends on size and time (or etag) of its own scribble files.

    Raises:
        FileNotFoundError: no shards, or no such root.
    """
    paths = list_shards(config.samples)
    if not paths:
        raise FileNotFoundError(f"{config.samples}: expected shards (*.parquet), found none; ingest the photos first")
    root = None if config.kind == "simulated" else Root(config.root)
    units = []
    for index, path in enumerate(paths):
        name = path.rsplit("/", 1)[-1]
        outputs = tuple(f"{out_dir.rstrip('/')}/{folder}/{name}" for folder in ("weak", "rejects"))
        stamps = () if root is None else (_stamp(root, config, path),)
        units.append(Unit((path,), outputs, stamps, index))
    return units


def _stamp(root: Root, config: ScribbleConfig, shard: str) -> str:
    parts: list[str | None] = []
    for row in read_shard(shard, SAMPLE, ["provenance"]).to_pylist():
        path = scribble_path(config, str(row["provenance"]["source_path"]))
        parts.append(path)
        try:
            parts.append(None if path_problem(path) else root.stamp(path))
        except FileNotFoundError:
            parts.append(None)
    return content_id(*parts)


def scribble_path(config: ScribbleConfig, image_path: str) -> str:
    """Path of an image's scribble under the root: `images/a/b.jpg` has `scribbles/a/b.png`."""
    image = PurePosixPath(image_path)
    if config.images and image.is_relative_to(config.images):
        image = image.relative_to(config.images)
    name = f"{image.stem}{config.suffix}.{'xml' if config.kind == 'xml' else 'png'}"
    return str(PurePosixPath(config.folder) / image.parent / name)


def scribbles_stage(config: ScribbleConfig) -> Stage:
    """The stage; where root and samples lie is no part of its identity."""
    reader = Reader.of(config)
    later = {"channel"} if config.channel is None else set()  # came after shards had been written
    identity = config.model_dump(mode="json", exclude={"samples", "root", "label_space", *later})
    hashed = config_hash({"config": identity, "space": config.space.fingerprint})
    return Stage(STAGE, VERSION, (WEAK_LABEL, DECISION), hashed, functools.partial(_process, reader))


@functools.lru_cache(maxsize=8)
def _root(url: str) -> Root:
    return Root(url)


@dataclass(frozen=True)
class Reader:
    """How one source's strokes become maps of contract ids. `table` maps values of PNGs, uint8 (256,)."""

    config: ScribbleConfig
    space: LabelSpace
    table: Uint8Array

    @classmethod
    def of(cls, config: ScribbleConfig) -> "Reader":
        """Resolve the names in `remap`.

        Raises:
            KeyError, ValueError: a target that the label space does not have.
        """
        table = np.arange(256, dtype=np.uint8)
        space = config.space
        table[list(space.ignore_ids)] = IGNORE
        for value, target in CODINGS[config.coding].items():
            table[value] = target
        for value, name in config.remap.items():
            if not 0 <= value <= 255:
                raise ValueError(f"remap: scribble values are 0..255, found {value}")
            table[value] = class_value(name, space)
        return cls(config, space, table)

    def read(self, row: Row) -> Uint8Array:
        """The scribble of a Sample row, uint8 (H, W), 255 = not annotated.

        Raises:
            ContractError: no scribble, one that cannot be read, of another size, with foreign ids, or without strokes.
        """
        where, size = row["sample_id"], (int(row["height"]), int(row["width"]))
        if self.config.kind == "simulated":
            scribble = self._simulated(row)
        else:
            where = scribble_path(self.config, str(row["provenance"]["source_path"]))
            scribble = self._drawn(_root(self.config.root).read(where, Reason.MISSING_MASK), where, size)
        if scribble.shape != size:
            found = f"{scribble.shape[1]}x{scribble.shape[0]}"
            fix = "export the strokes at the image's size; do not resize them"
            problem = Problem(Reason.SIZE_MISMATCH, f"a scribble of {size[1]}x{size[0]}", found, fix)
            raise ContractError(where, problem)
        if (fault := check_mask(scribble, self.space, allow_empty=True)) is not None:
            raise ContractError(where, fault)
        if (scribble == IGNORE).all():
            fix = "draw at least one, or check `coding`"
            raise ContractError(where, Problem(Reason.EMPTY_FOREGROUND, "at least one stroke", "none", fix))
        return scribble

    def _drawn(self, data: bytes, where: str, size: tuple[int, int]) -> Uint8Array:
        if self.config.kind == "png":
            return self.table[self._values(data, where)]
        stated, strokes = parse_scribble_xml(data, self.space, where)
        if stated != size:
            found = f"{stated[1]}x{stated[0]}"
            problem = Problem(Reason.SIZE_MISMATCH, f"{size[1]}x{size[0]}", found, "pair it with its own image")
            raise ContractError(where, problem)
        return rasterise(strokes, *size, self.config.line_width)

    def _values(self, data: bytes, where: str) -> Uint8Array:
        """The values of a PNG: its one channel (or three that are equal), or the channel that the config names."""
        found = decode_labels(data, where)
        if found.values is not None or found.colours is None:
            return decode_mask(data, where)
        if self.config.channel is None:
            fix = "name the channel that holds the values: set channel: red (or green, blue); else write one channel"
            raise ContractError(where, coloured(found, fix))
        channel: Uint8Array = found.colours[..., CHANNELS.index(self.config.channel)]
        return channel

    def _simulated(self, row: Row) -> Uint8Array:
        if row["mask"] is None:
            fix = "simulate from samples with masks, or give drawn strokes"
            problem = Problem(Reason.MISSING_MASK, "a mask to draw strokes from", "none", fix)
            raise ContractError(row["sample_id"], problem)
        mask = decode_mask(row["mask"]["bytes"], row["sample_id"])
        return simulate_scribble(mask, row["sample_id"], self.config.simulate, self.config.seed)


def _process(reader: Reader, unit: Unit) -> StageResult:
    weak, rejects, counts = [], [], Counter[str]()
    for row in read_shard(unit.inputs[0], SAMPLE, PIXELS).to_pylist():
        try:
            weak.append(_weak_row(row["sample_id"], reader.read(row), reader.space))
            counts[str(Reason.KEPT)] += 1
        except ContractError as error:
            rejects.append(_reject(row, error.problem))
            counts[str(error.problem.reason)] += 1
    return StageResult((WEAK_LABEL.table(weak), DECISION.table(rejects)), dict(counts))


def _weak_row(sample_id: str, scribble: Uint8Array, space: LabelSpace) -> Row:
    return {
        "sample_id": sample_id,
        "class_ids": foreground_ids(scribble, space),
        "scribble": {"bytes": encode_mask(scribble, space.palette), "path": None},
    }


def _reject(row: Row, problem: Problem) -> Row:
    return {
        "sample_id": row["sample_id"],
        "stage": STAGE,
        "kept": False,
        "reason": str(problem.reason),
        "detail": str(problem),
        "source_path": row["provenance"]["source_path"],
    }


def read_scribbles(
    config: ScribbleConfig, out_dir: str, *, workers: int = 1, progress: Callable[[UnitReport], None] | None = None
) -> dict[str, int]:
    """WEAK_LABEL shards for every Sample shard, in `out_dir/weak`; returns samples by reason (`kept` = has strokes)."""
    counts: Counter[str] = Counter()
    stage, units = scribbles_stage(config), scribbles_units(config, out_dir)
    for report in map_units(stage, units, workers=workers, progress=progress):
        counts.update(report.counts)
    return dict(counts)


def hints_for_all(out_dir: str) -> str:
    """WeakLabel shards with a row for every photo, its scribble or nothing: photos without strokes get labels too."""
    for path in list_shards(f"{out_dir}/samples"):
        name = PurePosixPath(path).name
        drawn = {row["sample_id"]: row for row in read_shard(f"{out_dir}/weak/{name}", WEAK_LABEL).to_pylist()}
        ids = [row["sample_id"] for row in read_shard(path, SAMPLE, ["sample_id"]).to_pylist()]
        table = WEAK_LABEL.table([drawn.get(sample_id, {"sample_id": sample_id}) for sample_id in ids])
        stamp = content_id(*ids, *sorted(drawn))
        write_shard(f"{out_dir}/hints/{name}", table, WEAK_LABEL, stage="hints", fingerprint=stamp)
    return f"{out_dir}/hints"
