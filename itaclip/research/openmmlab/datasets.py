"""Data sets of the published evaluations that MMSegmentation 1.2 lacks, and the demo's."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset as BaseSegDataset
from mmseg.datasets import (
    COCOStuffDataset,
    PascalContextDataset,
    PascalContextDataset59,
    PascalVOCDataset,
)
from mmseg.registry import DATASETS

from itaclip.common.demo.world import CLASSES, KINDS
from itaclip.common.figures.palette import palette
from itaclip.common.shipped import configuration_folder
from itaclip.core.text.class_names import read_class_names

_THINGS = ("car", "bus", "boat", "bird", "cat", "dog", "flower", "person", "parasol", "balloon")


def _metainfo(classes: tuple[str, ...], colors: list[list[int]]) -> dict[str, Any]:
    return {"classes": classes, "palette": colors}


def _shipped_classes(name: str) -> dict[str, Any]:
    """Read the names of a shipped class file, which are the data set's own."""
    names = read_class_names(configuration_folder() / f"cls_{name}.txt").names
    return _metainfo(names, palette(len(names)))


@DATASETS.register_module()
class PascalVOC20Dataset(BaseSegDataset):
    """Pascal VOC 2012 without the background, which is ignored (label 0 becomes 255)."""

    METAINFO = _metainfo(PascalVOCDataset.METAINFO["classes"][1:], PascalVOCDataset.METAINFO["palette"][1:])

    def __init__(self, reduce_zero_label: bool = True, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=reduce_zero_label, **options)


@DATASETS.register_module()
class PascalContext60Dataset(BaseSegDataset):
    """Pascal Context: 59 classes and a background (label 0)."""

    METAINFO = _metainfo(PascalContextDataset.METAINFO["classes"], PascalContextDataset.METAINFO["palette"])

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class PascalContext59Dataset(BaseSegDataset):
    """Pascal Context without the background, which is ignored (label 0 becomes 255)."""

    METAINFO = _metainfo(PascalContextDataset59.METAINFO["classes"], PascalContextDataset59.METAINFO["palette"])

    def __init__(self, reduce_zero_label: bool = True, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=reduce_zero_label, **options)


@DATASETS.register_module()
class COCOObjectDataset(BaseSegDataset):
    """COCO's 80 thing classes and a background (label 0) for everything else; no pixel is ignored."""

    METAINFO = _metainfo(
        ("background", *COCOStuffDataset.METAINFO["classes"][:80]),
        [[0, 0, 0], *COCOStuffDataset.METAINFO["palette"][:80]],
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix="_instanceTrainIds.png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class ADE20K847Dataset(BaseSegDataset):
    """ADE20K with 847 classes, in the common preparation for detectron2: 16-bit TIFF, 65535 is ignored.

    Its pipeline needs `ITACLIPLoadAnnotations`.
    """

    METAINFO = _shipped_classes("ade847")

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".tif", reduce_zero_label=False, **options)


@DATASETS.register_module()
class PascalContext459Dataset(BaseSegDataset):
    """Pascal Context with 459 classes, in the common preparation for detectron2: 16-bit TIFF, 65535 is ignored.

    Its pipeline needs `ITACLIPLoadAnnotations`.
    """

    METAINFO = _shipped_classes("context459")

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".tif", reduce_zero_label=False, **options)


@DATASETS.register_module()
class OpenEarthMapDataset(BaseSegDataset):
    """OpenEarthMap (Xia et al., WACV 2023): satellite and aerial images, 8 classes, and 0 where none is labelled."""

    METAINFO = _metainfo(
        ("background", "bareland", "rangeland", "developed space", "road", "tree", "water", "agriculture land",
         "building"),
        [[0, 0, 0], [128, 0, 0], [0, 255, 36], [148, 148, 148], [255, 255, 255], [34, 97, 38], [0, 69, 255],
         [75, 181, 73], [222, 31, 7]],
    )  # fmt: skip

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".tif", seg_map_suffix=".tif", reduce_zero_label=False, **options)


@DATASETS.register_module()
class UAVidDataset(BaseSegDataset):
    """UAVid (Lyu et al., 2020): oblique views from a drone. Its masks are colours; convert them first."""

    METAINFO = _metainfo(
        ("background clutter", "building", "road", "car", "tree", "low vegetation", "human"),
        [[0, 0, 0], [128, 0, 0], [128, 64, 128], [192, 0, 192], [0, 128, 0], [128, 128, 0], [64, 64, 0]],
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".png", seg_map_suffix=".png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class UDD5Dataset(BaseSegDataset):
    """Urban Drone Dataset, 5 classes (Chen et al., PRCV 2018). Its masks are colours; convert them first."""

    METAINFO = _metainfo(
        ("other", "vegetation", "building", "road", "vehicle"),
        [[0, 0, 0], [107, 142, 35], [102, 102, 156], [128, 64, 128], [0, 0, 142]],
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".JPG", seg_map_suffix=".png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class VDDDataset(BaseSegDataset):
    """Varied Drone Dataset (Cai et al., 2023)."""

    METAINFO = _metainfo(
        ("other", "wall", "road", "vegetation", "vehicle", "roof", "water"),
        [[0, 0, 0], [102, 102, 156], [128, 64, 128], [107, 142, 35], [0, 0, 142], [70, 70, 70], [28, 42, 168]],
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".JPG", seg_map_suffix=".png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class DemoDataset(BaseSegDataset):
    """The drawn scenes of the bundled demo, in the layout of Pascal VOC."""

    METAINFO = _metainfo(tuple(kind.names[0] for kind in KINDS), palette(CLASSES))

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False, **options)


@DATASETS.register_module()
class DemoThingsDataset(BaseSegDataset):
    """The demo's scenes with ten things; everything else is the background (label 0), as in Pascal VOC."""

    METAINFO = _metainfo(("background", *_THINGS), palette(len(_THINGS) + 1))

    def __init__(self, **options: Any) -> None:
        super().__init__(img_suffix=".jpg", seg_map_suffix=".png", reduce_zero_label=False, **options)

    @classmethod
    def get_label_map(cls, new_classes: Any = None) -> dict[int, int]:
        """Return the new label of every label of the masks."""
        names = [kind.names[0] for kind in KINDS]
        return {label: _THINGS.index(name) + 1 if name in _THINGS else 0 for label, name in enumerate(names)}
