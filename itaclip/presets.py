"""Protocols as data: the published settings of every method, and one protocol for all.

Sources are the configurations and class files of the published repositories, at the
commits named in `SOURCES`. Scores are only comparable within one protocol: short side,
windows, temperature, thresholds and class words all move them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itaclip.errors import ItaclipError

DATASETS = {
    "PascalVOCDataset": "voc21",
    "PascalVOC20Dataset": "voc20",
    "PascalContext60Dataset": "context60",
    "PascalContext59Dataset": "context59",
    "COCOObjectDataset": "coco_object",
    "COCOStuffDataset": "coco_stuff",
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
}
"""Name of a data set by the type that configurations give it."""

SOURCES = {
    "sclip": "SCLIP's repository at b56bd30",
    "clearclip": "ClearCLIP's repository at ad68a40",
    "naclip": "NACLIP's repository at 0cac3a6",
    "itaclip": "ITACLIP's repository at 521a33c",
}

REPOSITORY_OF = {
    "clip": "clearclip",
    "maskclip": "clearclip",
    "maskclip_bare": "clearclip",
    "sclip": "sclip",
    "sclip_bare": "clearclip",
    "clearclip": "clearclip",
    "gem": "clearclip",
    "gem_bare": "clearclip",
    "naclip": "naclip",
    "kk": "naclip",
    "itaclip": "itaclip",
}
"""Whose settings a method was published with; ClearCLIP's code ran the older methods beside its own."""

_PLAIN = dict(img_engineering=False, closing=False, area_thd=None, pamr_steps=0, pamr_stride=(8, 16))
"""What sets everybody's pipeline apart from ITACLIP's."""


@dataclass(frozen=True)
class Preset:
    """One protocol on one data set.

    Attributes:
        short_side: of the resized image in pixels; the long side is at most 2048. None
            keeps the configuration's.
        settings: entries of `itaclip.settings.Settings`.
        texts: keep the configuration's auxiliary texts; False goes without.
        words: lines of the class file, from 0, that read differently.
        source: where this comes from.
    """

    short_side: int | None
    settings: Mapping[str, Any]
    texts: bool
    words: Mapping[int, str]
    source: str


def published(method: str, dataset: str) -> Preset:
    """The settings that a method was published with on a data set.

    Args:
        method: a key of `itaclip.clip.METHODS`.
        dataset: the type that the configuration gives the data set.

    Raises:
        ItaclipError: nothing was published for this pair.
    """
    repository = REPOSITORY_OF.get(method, "")
    rows = _PUBLISHED.get(repository, {})
    name = DATASETS.get(dataset, dataset)
    if name not in rows:
        there = f"it has them for {', '.join(rows)}" if rows else f"only {', '.join(REPOSITORY_OF)} have any"
        raise ItaclipError(
            f"method {method!r} has no published settings for {name}; {there}. "
            "--preset common runs every method on every data set."
        )
    short_side, settings = rows[name]
    words = _WORDS.get(repository, {}).get(name, {})
    return Preset(short_side, settings, repository == "itaclip", words, SOURCES[repository])


def common(dataset: str, background: bool) -> Preset:
    """One protocol for all methods: windows of 224 with a stride of 112, softmax at 40.

    No refinement, no auxiliary texts, the plain view, no closing, no area rule; the
    configuration's class file and short side (336; 448 on COCO-Stuff; 560 on
    Cityscapes). With a background, scores below 0.1 become background. These are SCLIP's
    and NACLIP's defaults. The demo's patches are half as large, and so are its windows
    and the dilations that PAMR would have.
    """
    demo = dataset == "DemoDataset"
    settings = _PLAIN | dict(
        slide_crop=112 if demo else 224,
        slide_stride=56 if demo else 112,
        padding="end",
        pamr_stride=(4, 8) if demo else (8, 16),
        logit_scale=40,
        prob_thd=0.1 if background else 0.0,
    )
    return Preset(None, settings, False, {}, "this project")


# --- published configurations ------------------------------------------------

_Rows = dict[str, tuple[int, dict[str, Any]]]


def _windows(crop: int, stride: int, scale: float, threshold: float = 0.0, **more: Any) -> dict[str, Any]:
    return {**_PLAIN, "slide_crop": crop, "slide_stride": stride, "padding": "end", "logit_scale": scale,
            "prob_thd": threshold, **more}  # fmt: skip


def _clearclip(threshold: float = 0.0, crop: int = 448) -> tuple[int, dict[str, Any]]:
    # on Cityscapes the published crop is 224 with the stride left at 224: no overlap
    return 448, _windows(crop, 224, 50, threshold, padding="centre")


def _naclip(short_side: int = 336, threshold: float = 0.0, crop: int = 224) -> tuple[int, dict[str, Any]]:
    return short_side, _windows(crop, 112, 40, threshold, pamr_steps=10)


def _itaclip(short_side: int, scale: float, threshold: float, text: float, image: float,
             area: float | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
    own = dict(img_engineering=True, closing=True, area_thd=area, pamr_steps=10, def_coefficient=text,
               img_eng_coefficient=image, blur_kernel=11, blur_sigma=5.0)  # fmt: skip
    return short_side, _windows(224, 28, scale, threshold, **own)


_PUBLISHED: dict[str, _Rows] = {
    "sclip": {
        "voc21": (336, _windows(224, 112, 65, 0.1, area_thd=0.1)),
        "voc20": (336, _windows(224, 112, 40)),
        "context60": (336, _windows(224, 112, 50, 0.1)),
        "context59": (336, _windows(224, 112, 40)),
        "coco_object": (336, _windows(224, 112, 50, 0.1)),
        "coco_stuff": (448, _windows(224, 112, 40)),
        "cityscapes": (560, _windows(224, 112, 40)),
        "ade20k": (336, _windows(224, 112, 40)),
    },
    "clearclip": {
        "voc21": _clearclip(0.5),
        "voc20": _clearclip(),
        "context60": _clearclip(0.15),
        "context59": _clearclip(),
        "coco_object": _clearclip(0.4),
        "coco_stuff": _clearclip(),
        "cityscapes": _clearclip(crop=224),
        "ade20k": _clearclip(),
    },
    "naclip": {
        "voc21": _naclip(threshold=0.1, crop=0),
        "voc20": _naclip(crop=0),
        "context60": _naclip(threshold=0.1),
        "context59": _naclip(),
        "coco_object": _naclip(threshold=0.1),
        "coco_stuff": _naclip(),
        "cityscapes": _naclip(short_side=560),
        "ade20k": _naclip(),
    },
    "itaclip": {
        "voc21": _itaclip(336, 60, 0.1, text=0.05, image=0.7, area=0.1),
        "context60": _itaclip(336, 55, 0.1, text=0.15, image=0.75),
        "coco_object": _itaclip(336, 50, 0.1, text=0.1, image=0.75),
        "coco_stuff": _itaclip(448, 40, 0.0, text=0.2, image=0.75),
        "cityscapes": _itaclip(560, 40, 0.0, text=0.05, image=0.7),
    },
}

# --- class words that differ from ITACLIP's, by line -------------------------

_CLOTHED = "person, person in shirt, person in jeans, person in dress, person in sweater, person in skirt"
_SCLIP_BACKGROUND = (
    "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, door, "
    "window, wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
)
_VOC_ANIMALS = {3: "bird", 8: "cat", 9: "chair", 14: "motorbike"}
_ALL_OTHERS: dict[str, dict[int, str]] = {
    "context60": {15: "cat", 17: "chair", 34: "motorbike", 37: "person", 55: "tvmonitor"},
    "coco_stuff": {0: "person", 62: "tv"},
    "cityscapes": {11: "person"},
}
_SCLIP_AND_NACLIP: dict[str, dict[int, str]] = {
    **_ALL_OTHERS,
    "voc21": {0: _SCLIP_BACKGROUND, **_VOC_ANIMALS, 15: f"{_CLOTHED}, person in jacket"},
    "voc20": {
        14: f"{_CLOTHED}, person in jacket",
        19: "television monitor, tv monitor, monitor, television, screen",
    },
    "coco_object": {1: f"{_CLOTHED}, person in jacket, body", 63: "tv"},
}
_WORDS: dict[str, dict[str, dict[int, str]]] = {
    "sclip": _SCLIP_AND_NACLIP,
    "naclip": _SCLIP_AND_NACLIP,
    "clearclip": {
        **_ALL_OTHERS,
        "voc21": {0: "background", **_VOC_ANIMALS, 15: "person", 20: "tvmonitor"},
        "coco_object": {0: "background", 1: "person", 63: "tv"},
    },
}

# --- free-form class lists ---------------------------------------------------

QUALITIES = {"exact": (8, True), "balanced": (2, True), "fast": (2, False)}
"""Steps per window and axis, and whether windows are seen in five views. "exact" is as
published; the others take a seventh and a fortieth of its passes on an image of VOC."""


def quality_settings(quality: str, crop: int) -> dict[str, Any]:
    """Stride and views of a quality for windows of `crop` pixels.

    Raises:
        ItaclipError: an unknown quality.
    """
    if quality not in QUALITIES:
        raise ItaclipError(f"quality {quality!r}: expected one of {', '.join(QUALITIES)}.")
    windows, views = QUALITIES[quality]
    return dict(slide_stride=max(1, crop // windows), img_engineering=views)


def free_form(quality: str, image_size: int, patch_size: int) -> tuple[int, dict[str, Any]]:
    """Short side and settings for classes that a person makes up, for any CLIP.

    Windows have the side that the model was trained on, images one and a half of it (336
    for 224, as published), and pixel counts follow the patch: the published ones were
    chosen for patches of 16. What was measured for the rest is told in docs/classes.md.

    Args:
        quality: a key of `QUALITIES`.
        image_size: side in pixels of the images that the model was trained on.
        patch_size: side of its patches in pixels.

    Raises:
        ItaclipError: an unknown quality.
    """
    chosen = quality_settings(quality, image_size)
    scale = patch_size / 16
    settings = dict(
        background=True,
        slide_crop=image_size,
        blur_kernel=2 * round(5 * scale) + 1,
        blur_sigma=5 * scale,
        pamr_steps=10,
        pamr_stride=tuple(max(1, round(d * scale)) for d in (8, 16)),
        prob_thd=0.1,
        **chosen,
    )
    return image_size * 3 // 2, settings
