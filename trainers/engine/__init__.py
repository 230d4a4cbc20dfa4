"""One engine for all trainers: settings, data, loop, checkpoints, metrics, prediction, artefacts. Knows no method."""

from trainers.engine.artifact import Artifact, ArtifactInfo, is_finished, read_artifact, read_info, save_artifact
from trainers.engine.augment import (
    AugmentConfig,
    Fit,
    Geometry,
    centre_geometry,
    draw_geometry,
    fitted_size,
    jitter_colours,
    resize_image,
)
from trainers.engine.batches import (
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
from trainers.engine.config import Runtime, TrainerConfig
from trainers.engine.device import evaluating, pick_device, pick_precision
from trainers.engine.job import Job
from trainers.engine.loop import Loop
from trainers.engine.metrics import SegmentationMetrics, class_name, evaluate
from trainers.engine.optim import ParamGroup, lr_factor, make_optimizer, param_groups
from trainers.engine.predict import PredictConfig, Prediction, SegmentationPredictor
from trainers.engine.remembered import Remembered
from trainers.engine.samples import DataConfig, Example, Info, Samples

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
    "class_name",
    "collate",
    "draw_geometry",
    "evaluate",
    "evaluating",
    "fitted_size",
    "is_finished",
    "jitter_colours",
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
    "shuffled",
]
