"""Ingest: what other people have, to Sample shards. A new source = one module with one `Source`, and its line here."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from maskmill.pipelines.core.kinds import Kinds
from maskmill.pipelines.ingest.base import Entry, RawSample, Source
from maskmill.pipelines.ingest.stage import ingest_entry, ingest_stage, ingest_units

SOURCES: Kinds[Source] = Kinds(
    "source",
    "kind",
    {
        "folder": "maskmill.pipelines.ingest.folder:FolderSource",
        "voc": "maskmill.pipelines.ingest.voc:VocSource",
        "cityscapes": "maskmill.pipelines.ingest.cityscapes:CityscapesSource",
        "davis": "maskmill.pipelines.ingest.davis:DavisSource",
        "segtrack": "maskmill.pipelines.ingest.object_clips:SegTrackSource",
        "youtube_objects": "maskmill.pipelines.ingest.object_clips:YoutubeObjectsSource",
        "coco": "maskmill.pipelines.ingest.coco:CocoSource",
        "hf_parquet": "maskmill.pipelines.ingest.hf_parquet:HfParquetSource",
        "webdataset": "maskmill.pipelines.ingest.webdataset:WebDatasetSource",
        "imagefolder": "maskmill.pipelines.ingest.imagefolder:ImagefolderSource",
        "save_to_disk": "maskmill.pipelines.ingest.save_to_disk:SaveToDiskSource",
        "yolo": "maskmill.pipelines.ingest.yolo:YoloSource",
        "labelme": "maskmill.pipelines.ingest.labelme:LabelmeSource",
        "sa1b": "maskmill.pipelines.ingest.sa1b:Sa1bSource",
        "geotiff": "maskmill.pipelines.ingest.geotiff:GeotiffSource",
        "datumaro": "maskmill.pipelines.ingest.datumaro:DatumaroSource",
        "dataset_diffusion": "maskmill.pipelines.ingest.dataset_diffusion:DatasetDiffusionSource",
        "drawn": "maskmill.pipelines.ingest.drawn:DrawnSource",
        "video": "maskmill.pipelines.ingest.video:VideoSource",
        "groups": "maskmill.pipelines.ingest.groups:GroupsSource",
        "drawn_groups": "maskmill.pipelines.ingest.drawn_groups:DrawnGroupsSource",
        "h5": "maskmill.pipelines.ingest.volumes_h5:H5Source",
        "nifti": "maskmill.pipelines.ingest.volumes_nifti:NiftiSource",
        "mhd": "maskmill.pipelines.ingest.volumes_mhd:MhdSource",
        "nnunet": "maskmill.pipelines.ingest.nnunet:NnunetSource",
        "slices": "maskmill.pipelines.ingest.volumes_slices:SliceSource",
    },
)
SourceConfig = Annotated[SerializeAsAny[Source], BeforeValidator(SOURCES.validate)]

__all__ = ["SOURCES", "Entry", "RawSample", "Source", "SourceConfig", "ingest_entry", "ingest_stage", "ingest_units"]
