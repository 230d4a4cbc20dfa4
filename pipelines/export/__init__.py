"""Filtered datasets in formats that others read. A new format = one module with one `Exporter`, and its line here."""

from typing import Annotated

from pydantic import Field

from pipelines.export.base import Exporter, ExportSample, ShardFiles
from pipelines.export.coco import CocoExport
from pipelines.export.hf import HfExport
from pipelines.export.runner import (
    ExportReport,
    ExportUnit,
    export_root,
    export_shard,
    export_units,
    finish_export,
    run_export,
    why_export,
    why_finish,
)
from pipelines.export.step import ExportStep
from pipelines.export.voc import VocExport
from pipelines.export.webdataset import WebDatasetExport
from pipelines.export.yolo import YoloExport

ExportConfig = Annotated[
    VocExport | CocoExport | YoloExport | WebDatasetExport | HfExport, Field(discriminator="format")
]
EXPORTERS: dict[str, type[Exporter]] = {
    "voc": VocExport,
    "coco": CocoExport,
    "yolo": YoloExport,
    "webdataset": WebDatasetExport,
    "hf": HfExport,
}


def create_exporter(format: str, **options: object) -> Exporter:
    """The exporter of a format with its options, e.g. `create_exporter("coco", regions="part")`.

    Raises:
        KeyError: no such format; lists them.
        pydantic.ValidationError: an option that the format does not have, or of the wrong kind.
    """
    if format not in EXPORTERS:
        raise KeyError(f"{format!r} is no export format; formats: {', '.join(EXPORTERS)}")
    return EXPORTERS[format].model_validate(options)


__all__ = [
    "EXPORTERS",
    "CocoExport",
    "ExportConfig",
    "ExportReport",
    "ExportSample",
    "ExportStep",
    "ExportUnit",
    "Exporter",
    "HfExport",
    "ShardFiles",
    "VocExport",
    "WebDatasetExport",
    "YoloExport",
    "create_exporter",
    "export_root",
    "export_shard",
    "export_units",
    "finish_export",
    "run_export",
    "why_export",
    "why_finish",
]
