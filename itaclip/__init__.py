"""ITACLIP: training-free open-vocabulary semantic segmentation with CLIP (CVPRW 2025).

from itaclip import Segmenter

segmenter = Segmenter("ViT-B/16")
segmenter.set_classes(["cat", "sofa, couch"])
segmenter("photo.jpg").overlay().save("overlay.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from itaclip.errors import ItaclipError

if TYPE_CHECKING:
    from itaclip.apps.collection.label import label
    from itaclip.apps.collection.options import LabelOptions, LabelReport
    from itaclip.apps.collection.results import Labels, read_labels
    from itaclip.apps.pipelines import pipeline
    from itaclip.apps.raster.segment import RasterOptions, RasterReport, segment_raster
    from itaclip.core.settings import Settings
    from itaclip.result import Result
    from itaclip.segmenter import Segmenter
    from itaclip.vocabulary import Vocabulary

__all__ = [
    "ItaclipError", "LabelOptions", "LabelReport", "Labels", "RasterOptions", "RasterReport", "Result", "Segmenter",
    "Settings", "Vocabulary", "label", "pipeline", "read_labels", "segment_raster",
]  # fmt: skip

_MODULES = {
    "LabelOptions": "apps.collection.options", "LabelReport": "apps.collection.options",
    "label": "apps.collection.label",
    "Labels": "apps.collection.results", "read_labels": "apps.collection.results", "pipeline": "apps.pipelines",
    "RasterOptions": "apps.raster.segment", "RasterReport": "apps.raster.segment",
    "segment_raster": "apps.raster.segment",
    "Result": "result", "Segmenter": "segmenter", "Settings": "core.settings", "Vocabulary": "vocabulary",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that converters and checks need not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'itaclip' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"itaclip.{_MODULES[name]}"), name)
