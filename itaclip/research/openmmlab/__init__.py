"""ITACLIP in MMSegmentation: segmentor, preprocessor and data sets.

Import this package (or `itaclip`) before `mmseg.apis`: it makes MMSegmentation importable
with mmcv-lite, and registers the classes that configurations use.

Raises:
    OpenMMLabError: MMSegmentation, MMEngine or mmcv is missing or damaged.
"""

from itaclip.common.openmmlab_packages import readable_import_errors

with readable_import_errors("MMSegmentation"):
    from itaclip.research.openmmlab.compiled_ops import ensure_mmcv_ops_import

    ensure_mmcv_ops_import()

    from itaclip.research.openmmlab.datasets import (
        ADE20K847Dataset,
        COCOObjectDataset,
        DemoDataset,
        DemoThingsDataset,
        PascalContext59Dataset,
        PascalContext60Dataset,
        PascalContext459Dataset,
        PascalVOC20Dataset,
    )
    from itaclip.research.openmmlab.loading import ITACLIPLoadAnnotations, ITACLIPLoadImage
    from itaclip.research.openmmlab.preprocessor import ITACLIPPreprocessor
    from itaclip.research.openmmlab.segmentor import ITACLIPSegmentor

__all__ = [
    "ADE20K847Dataset",
    "COCOObjectDataset",
    "DemoDataset",
    "DemoThingsDataset",
    "ITACLIPLoadAnnotations",
    "ITACLIPLoadImage",
    "ITACLIPPreprocessor",
    "ITACLIPSegmentor",
    "PascalContext59Dataset",
    "PascalContext60Dataset",
    "PascalContext459Dataset",
    "PascalVOC20Dataset",
]
