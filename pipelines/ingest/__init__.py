"""Ingest: folders, VOC, COCO, Parquet, tars, volumes and Dataset Diffusion rows to Sample shards. One file a source."""

from typing import Annotated

from pydantic import Field

from pipelines.ingest.base import Entry, RawSample, Source
from pipelines.ingest.coco import CocoSource
from pipelines.ingest.dataset_diffusion import DatasetDiffusionSource
from pipelines.ingest.drawn import DrawnSource
from pipelines.ingest.drawn_groups import DrawnGroupsSource
from pipelines.ingest.folder import FolderSource
from pipelines.ingest.groups import GroupsSource
from pipelines.ingest.hf_parquet import HfParquetSource
from pipelines.ingest.stage import ingest_entry, ingest_stage, ingest_units
from pipelines.ingest.video import VideoSource
from pipelines.ingest.voc import VocObject, VocSource, parse_voc_xml
from pipelines.ingest.volumes_h5 import H5Source
from pipelines.ingest.volumes_nifti import NiftiSource
from pipelines.ingest.volumes_slices import SliceSource
from pipelines.ingest.webdataset import WebDatasetSource

SourceConfig = Annotated[
    FolderSource
    | VocSource
    | CocoSource
    | HfParquetSource
    | WebDatasetSource
    | DatasetDiffusionSource
    | DrawnSource
    | VideoSource
    | GroupsSource
    | DrawnGroupsSource
    | H5Source
    | NiftiSource
    | SliceSource,
    Field(discriminator="kind"),
]

__all__ = [
    "CocoSource",
    "DatasetDiffusionSource",
    "DrawnGroupsSource",
    "DrawnSource",
    "Entry",
    "FolderSource",
    "GroupsSource",
    "H5Source",
    "HfParquetSource",
    "NiftiSource",
    "RawSample",
    "SliceSource",
    "Source",
    "SourceConfig",
    "VideoSource",
    "VocObject",
    "VocSource",
    "WebDatasetSource",
    "ingest_entry",
    "ingest_stage",
    "ingest_units",
    "parse_voc_xml",
]
