"""Engines that run CLIP's towers instead of PyTorch."""

from itaclip.core.engines.cache import clear_engines, engine_folder
from itaclip.core.engines.openvino import (
    ENGINES,
    OPENVINO_DTYPES,
    OpenVINOBlocks,
    OpenVINOText,
    has_openvino,
    require_openvino,
)

__all__ = [
    "ENGINES",
    "OPENVINO_DTYPES",
    "OpenVINOBlocks",
    "OpenVINOText",
    "clear_engines",
    "engine_folder",
    "has_openvino",
    "require_openvino",
]
