"""ITACLIP in MMSegmentation: segmentor, preprocessor and data sets.

Import this package (or `itaclip`) before `mmseg.apis`: it makes MMSegmentation importable
with mmcv-lite, and registers the classes that configurations use.
"""

from itaclip.research.openmmlab.compiled_ops import ensure_mmcv_ops_import

ensure_mmcv_ops_import()

from itaclip.research.openmmlab.datasets import (  # noqa: E402
    COCOObjectDataset,
    DemoDataset,
    PascalContext59Dataset,
    PascalContext60Dataset,
    PascalVOC20Dataset,
)
from itaclip.research.openmmlab.loading import ITACLIPLoadImage  # noqa: E402
from itaclip.research.openmmlab.preprocessor import ITACLIPPreprocessor  # noqa: E402
from itaclip.research.openmmlab.segmentor import ITACLIPSegmentor  # noqa: E402

__all__ = [
    "COCOObjectDataset",
    "DemoDataset",
    "ITACLIPLoadImage",
    "ITACLIPPreprocessor",
    "ITACLIPSegmentor",
    "PascalContext59Dataset",
    "PascalContext60Dataset",
    "PascalVOC20Dataset",
]
