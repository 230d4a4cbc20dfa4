"""Filtered datasets in formats that others read. A new format = one module with one `Exporter`, and its line here."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from maskmill.pipelines.core.kinds import Kinds
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.runner import (
    ExportReport,
    export_shard,
    finish_export,
    run_export,
    why_export,
    why_finish,
)
from maskmill.pipelines.export.sample import ExportSample, ShardFiles
from maskmill.pipelines.export.units import ExportUnit, export_root, export_units

EXPORTERS: Kinds[Exporter] = Kinds(
    "export format",
    "format",
    {
        "voc": "maskmill.pipelines.export.voc:VocExport",
        "coco": "maskmill.pipelines.export.coco:CocoExport",
        "yolo": "maskmill.pipelines.export.yolo:YoloExport",
        "webdataset": "maskmill.pipelines.export.webdataset:WebDatasetExport",
        "hf": "maskmill.pipelines.export.hf:HfExport",
        "fiftyone": "maskmill.pipelines.export.fiftyone:FiftyOneExport",
    },
)
ExportConfig = Annotated[SerializeAsAny[Exporter], BeforeValidator(EXPORTERS.validate)]


def create_exporter(format: str, **options: object) -> Exporter:
    """The exporter of a format with its options, e.g. `create_exporter("coco", regions="part")`.

    Raises:
        ValueError: no such format; lists them.
        pydantic.ValidationError: an option that the format does not have, or of the wrong kind.
    """
    return EXPORTERS.load(format).model_validate(options)


__all__ = [
    "EXPORTERS",
    "ExportConfig",
    "ExportReport",
    "ExportSample",
    "ExportUnit",
    "Exporter",
    "ShardFiles",
    "create_exporter",
    "export_root",
    "export_shard",
    "export_units",
    "finish_export",
    "run_export",
    "why_export",
    "why_finish",
]
