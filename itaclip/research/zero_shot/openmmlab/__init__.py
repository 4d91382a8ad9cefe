"""Cascade-CLIP and CLIP-RC in MMSegmentation: models, metric, data and runner.

Configurations import this package by name; it registers the classes that they use.
"""

import itaclip.research.openmmlab  # noqa: F401 - first, because it makes mmseg importable with mmcv-lite
from itaclip.research.zero_shot.openmmlab.metric import ZeroShotIoU
from itaclip.research.zero_shot.openmmlab.runner import SaveCheckpoint, SeedStep, ZeroShotRunner
from itaclip.research.zero_shot.openmmlab.scenes import DemoTrainingDataset
from itaclip.research.zero_shot.openmmlab.segmentor import ZeroShotSegmentor
from itaclip.research.zero_shot.openmmlab.streams import ReplayableDataset, StreamLoop, StreamSampler
from itaclip.research.zero_shot.openmmlab.unreadable import SkippingDataset

__all__ = ["DemoTrainingDataset", "ReplayableDataset", "SaveCheckpoint", "SeedStep", "SkippingDataset", "StreamLoop",
           "StreamSampler", "ZeroShotIoU", "ZeroShotRunner", "ZeroShotSegmentor"]  # fmt: skip
