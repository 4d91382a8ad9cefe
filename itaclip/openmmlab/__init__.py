"""ITACLIP as a citizen of MMSegmentation: segmentor, preprocessor, data sets.

Import this package (or `itaclip`) before `mmseg.apis`: it makes MMSegmentation
importable beside mmcv-lite, and registers what configurations name.
"""

from itaclip.openmmlab.compiled_ops import ensure_mmcv_ops_import

ensure_mmcv_ops_import()

from itaclip.openmmlab.datasets import (  # noqa: E402
    COCOObjectDataset,
    DemoDataset,
    PascalContext59Dataset,
    PascalContext60Dataset,
    PascalVOC20Dataset,
)
from itaclip.openmmlab.preprocessor import ITACLIPPreprocessor  # noqa: E402
from itaclip.openmmlab.segmentor import ITACLIPSegmentor  # noqa: E402

__all__ = [
    "COCOObjectDataset",
    "DemoDataset",
    "ITACLIPPreprocessor",
    "ITACLIPSegmentor",
    "PascalContext59Dataset",
    "PascalContext60Dataset",
    "PascalVOC20Dataset",
]
