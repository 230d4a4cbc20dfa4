"""One engine for all trainers: settings, data, loop, checkpoints, metrics, prediction, artifacts. Knows no method."""

from typing import TYPE_CHECKING

from maskmill.data_contracts.lazy import lazily

if TYPE_CHECKING:
    from maskmill.trainers.engine.artifact import (
        Artifact,
        ArtifactInfo,
        is_finished,
        read_artifact,
        read_info,
        save_artifact,
    )
    from maskmill.trainers.engine.augment import (
        AugmentConfig,
        Geometry,
        centre_geometry,
        draw_geometry,
        fitted_size,
        jitter_colours,
        resize_image,
    )
    from maskmill.trainers.engine.batches import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        Batch,
        GroupSource,
        Item,
        JointSource,
        Rgb,
        SampleSource,
        SegmentationView,
        Source,
        View,
        collate,
        normalise,
        sample_rng,
        shuffled,
    )
    from maskmill.trainers.engine.config import Fit, PredictConfig, Runtime, TrainerConfig
    from maskmill.trainers.engine.device import evaluating, pick_precision, widened
    from maskmill.trainers.engine.initial import initialise
    from maskmill.trainers.engine.job import Job
    from maskmill.trainers.engine.loop import Loop
    from maskmill.trainers.engine.metrics import SegmentationMetrics, class_name, evaluate
    from maskmill.trainers.engine.optim import ParamGroup, lr_factor, make_optimizer, param_groups
    from maskmill.trainers.engine.predict import Prediction, SegmentationPredictor, check_images, with_crf
    from maskmill.trainers.engine.remembered import Remembered
    from maskmill.trainers.engine.samples import DataConfig, Example, Info, Samples
    from maskmill.trainers.engine.segmenter import check_crops, describe_segmenter, load_segmenter, segmenter_groups
    from maskmill.vision.device import pick_device

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Artifact",
    "ArtifactInfo",
    "AugmentConfig",
    "Batch",
    "DataConfig",
    "Example",
    "Fit",
    "Geometry",
    "GroupSource",
    "Info",
    "Item",
    "Job",
    "JointSource",
    "Loop",
    "ParamGroup",
    "PredictConfig",
    "Prediction",
    "Remembered",
    "Rgb",
    "Runtime",
    "SampleSource",
    "Samples",
    "SegmentationMetrics",
    "SegmentationPredictor",
    "SegmentationView",
    "Source",
    "TrainerConfig",
    "View",
    "centre_geometry",
    "check_crops",
    "check_images",
    "class_name",
    "collate",
    "describe_segmenter",
    "draw_geometry",
    "evaluate",
    "evaluating",
    "fitted_size",
    "initialise",
    "is_finished",
    "jitter_colours",
    "load_segmenter",
    "lr_factor",
    "make_optimizer",
    "normalise",
    "param_groups",
    "pick_device",
    "pick_precision",
    "read_artifact",
    "read_info",
    "resize_image",
    "sample_rng",
    "save_artifact",
    "segmenter_groups",
    "shuffled",
    "widened",
    "with_crf",
]

__getattr__ = lazily(
    __name__,
    "config",
    "samples",
    "job",
    "augment",
    "device",
    "initial",
    "batches",
    "artifact",
    "checkpoint",
    "loop",
    "metrics",
    "optim",
    "predict",
    "remembered",
    "segmenter",
)
