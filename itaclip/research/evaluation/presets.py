"""Evaluation protocols: the published settings of every method, and one common protocol.

The values come from the configurations and class files of the published repositories, at the
commits listed in `SOURCES`. Scores are comparable only within one protocol: short side,
windows, temperature, thresholds and class words all affect them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itaclip.core.concepts.options import SAM3
from itaclip.errors import ItaclipError

PRESETS = ("published", "common", "tipsv2")
"""Names of the protocols, for `--preset`."""

PAMR_STEPS = 10
"""Iterations of PAMR where a method was published with it."""

DATASETS = {
    "PascalVOCDataset": "voc21",
    "PascalVOC20Dataset": "voc20",
    "PascalContext60Dataset": "context60",
    "PascalContext59Dataset": "context59",
    "COCOObjectDataset": "coco_object",
    "COCOStuffDataset": "coco_stuff",
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
    "ADE20K847Dataset": "ade847",
    "PascalContext459Dataset": "context459",
}
"""Short name of a data set by its type in configurations."""

SOURCES = {
    "sclip": "SCLIP's repository at b56bd30",
    "clearclip": "ClearCLIP's repository at ad68a40",
    "naclip": "NACLIP's repository at 0cac3a6",
    "itaclip": "ITACLIP's repository at 521a33c",
    "scclip": "SC-CLIP's repository at 0417ba9",
    "resclip": "ResCLIP's repository at 0e085f7",
    "proxyclip": "ProxyCLIP's repository at e7b767f",
    "corrclip": "CorrCLIP's repository at 103bc18, its first version",
    "ovstitcher": "OV-Stitcher's repository at 91a9489",
    "radseg": "RADSeg's repository at 05ec86f, its middle resolution",
    "vip": "VIP's repository at 5bd25ee, with this project's words and without its ignored pixels",
    "rfclip": "RF-CLIP's repository at c2b333e",
    "sam3": "SegEarth-OV3's repository at 87e5cc1; the preview is ActiveSAM's, at 41cad43",
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
    "scclip": "scclip",
    "resclip": "resclip",
    "proxyclip": "proxyclip",
    "corrclip": "corrclip",
    "ovstitcher": "ovstitcher",
    "radseg": "radseg",
    "vip": "vip",
    "rfclip": "rfclip",
    "sam3": "sam3",
}
"""The repository whose settings a method uses; ClearCLIP's repository also evaluates older methods."""

_SAM3_SIDE = 1008  # pixels; SAM 3 stretches an image to a square of this side

LONG_SIDE = 2048
"""Pixels; the longest side of a resized image in published configurations."""

_PLAIN: dict[str, Any] = dict(img_engineering=False, closing=False, area_thd=None, pamr_steps=0, pamr_stride=(8, 16),
              map_correction=False, method_options={}, class_prompts=None,
              templates="imagenet", peak_thd=0.0)  # fmt: skip
"""Settings that all other methods share and ITACLIP changes."""


@dataclass(frozen=True)
class Preset:
    """One protocol on one data set.

    Attributes:
        short_side: short side of the resized image in pixels at most; None keeps the configuration's size.
        settings: fields of `itaclip.core.settings.Settings`.
        texts: whether to use the configuration's auxiliary texts.
        words: replacement lines of the class file, by class id.
        source: source of the settings.
        method: the method where none is named; None keeps the configuration's.
        long_side: long side in pixels at most, where a short side is given.
    """

    short_side: int | None
    settings: Mapping[str, Any]
    texts: bool
    words: Mapping[int, str]
    source: str
    method: str | None = None
    long_side: int = LONG_SIDE


def published(method: str, dataset: str) -> Preset:
    """Return the published settings of a method for a data set.

    Args:
        method: a key of `itaclip.core.methods.METHODS`.
        dataset: the data set's type in the configuration.

    Raises:
        ItaclipError: there are no published settings for this pair.
    """
    repository = REPOSITORY_OF.get(method, "")
    rows = _PUBLISHED.get(repository, {})
    name = DATASETS.get(dataset, dataset)
    if name not in rows:
        known = f"it has them for {', '.join(rows)}" if rows else f"only {', '.join(REPOSITORY_OF)} have any"
        raise ItaclipError(
            f"method {method!r} has no published settings for {name}; {known}. "
            "--preset common runs every method on every data set."
        )
    side, settings = rows[name]
    words = _WORDS.get(repository, {}).get(name, {})
    long_side = side if repository == "radseg" else LONG_SIDE
    return Preset(side, settings, repository == "itaclip", words, SOURCES[repository], long_side=long_side)


def common(dataset: str, background: bool, method: str = "") -> Preset:
    """Return one protocol for all methods: windows of 224 pixels with a stride of 112, logit scale 40.

    No refinement, no auxiliary texts, a single view, no closing, no area threshold; the
    configuration's class file and short side (336; 448 on COCO-Stuff; 560 on Cityscapes). With
    a background, scores below 0.1 become background. These are SCLIP's and NACLIP's defaults.
    The demo model's patches are half as large, so its windows and PAMR dilations are halved too.
    SAM 3 is not CLIP: it sees whole images, with a short side of 1008, and scores below 0.4 become background.
    """
    demo = dataset in ("DemoDataset", "DemoThingsDataset")
    settings = _PLAIN | dict(
        slide_crop=112 if demo else 224,
        slide_stride=56 if demo else 112,
        padding="end",
        pamr_stride=(4, 8) if demo else (8, 16),
        logit_scale=40,
        prob_thd=0.1 if background else 0.0,
    )
    if method == SAM3:
        return Preset(_SAM3_SIDE, settings | dict(prob_thd=0.4 if background else 0.0), False, {}, "this project")
    return Preset(None, settings, False, {}, "this project")


def tipsv2() -> Preset:
    """Take the settings that TIPSv2 was published with (arXiv 2604.12012), for its models, with any method.

    Its own is the last block's values without attention, "maskclip". Published code averages the softmax of
    the windows, at temperature 1; here their cosines are averaged, which at that temperature differs in the
    second order.
    """
    settings = _windows(448, 336, 1) | dict(templates="tcl")
    return Preset(448, settings, False, {}, "the notebook of TIPS's repository at 4db271d", method="maskclip")


# --- published configurations ------------------------------------------------

_Rows = dict[str, tuple[int, dict[str, Any]]]


def _windows(crop: int, stride: int, scale: float, threshold: float = 0.0, **more: Any) -> dict[str, Any]:
    return {**_PLAIN, "slide_crop": crop, "slide_stride": stride, "padding": "end", "logit_scale": scale,
            "prob_thd": threshold, **more}  # fmt: skip


def _clearclip(threshold: float = 0.0, crop: int = 448) -> tuple[int, dict[str, Any]]:
    # on Cityscapes the published crop is 224 and the stride stays 224: no overlap
    return 448, _windows(crop, 224, 50, threshold, padding="centre")


def _naclip(short_side: int = 336, threshold: float = 0.0, crop: int = 224) -> tuple[int, dict[str, Any]]:
    return short_side, _windows(crop, 112, 40, threshold, pamr_steps=PAMR_STEPS)


def _itaclip(short_side: int, scale: float, threshold: float, text: float, image: float,
             area: float | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
    own = dict(img_engineering=True, closing=True, area_thd=area, pamr_steps=PAMR_STEPS, def_coefficient=text,
               img_eng_coefficient=image, blur_kernel=11, blur_sigma=5.0)  # fmt: skip
    return short_side, _windows(224, 28, scale, threshold, **own)


def _scclip(scale: float = 40, threshold: float = 0.0, area: float | None = None, short_side: int = 336,
            ) -> tuple[int, dict[str, Any]]:  # fmt: skip
    return short_side, _windows(224, 112, scale, threshold, area_thd=area)


def _resclip(residual: float, feedback: tuple[float, float], first: float, threshold: float = 0.0, crop: int = 224,
             short_side: int = 336) -> tuple[int, dict[str, Any]]:  # fmt: skip
    options = dict(residual_scale=2.0, residual_weight=residual, feedback_scale=feedback[0],
                   feedback_weight=feedback[1], threshold=first, decay=True)  # fmt: skip
    return short_side, _windows(crop, 112, 40, threshold, method_options=options)


def _proxyclip(
    threshold: float = 0.0, short_side: int = 336, crop: int = 336, **more: Any
) -> tuple[int, dict[str, Any]]:
    windows = _windows(crop, 112, 40, threshold, padding="centre", second_encoder="dino-vitb8")
    return short_side, windows | more


def _corrclip(threshold: float = 0.0, short_side: int = 336, crop: int = 336) -> tuple[int, dict[str, Any]]:
    return _proxyclip(threshold, short_side, crop, regions="sam2", map_correction=True)


def _ovstitcher(threshold: float = 0.0, stride: int = 112, short_side: int = 448, crop: int = 336,
                ) -> tuple[int, dict[str, Any]]:  # fmt: skip
    own = dict(padding="centre", second_encoder="dino-vitb8", regions="sam2-64", map_correction=True)
    settings = _windows(crop, stride, 40, threshold, **own)
    del settings["class_prompts"]  # the configuration's, if it names any
    return short_side, settings


def _radseg(long_side: int, stride: int = 224) -> tuple[int, dict[str, Any]]:
    # every class needs a pixel of 0.5, instead of a threshold per pixel; none of its data sets has a background
    return long_side, _windows(336, stride, 100, peak_thd=0.5)


def _rfclip(step: float, share: float, distance: float, threshold: float = 0.0, crop: int = 224, short_side: int = 336,
            token: str = "image") -> tuple[int, dict[str, Any]]:  # fmt: skip
    options = dict(text_step=step, class_weight=share, text_distance=distance, class_token=token)
    return short_side, _windows(crop, 112, 40, threshold, method_options=options)


def _vip(
    sharpness: float, temperature: float, threshold: float = 0.0, short_side: int = 336
) -> tuple[int, dict[str, Any]]:
    # without a background, its thresholds leave pixels unlabelled or send them to class 0; here the best class counts
    aliases = dict(alias_temperature=temperature, alias_sharpness=sharpness)
    return short_side, _windows(336, 112, 40, threshold, **aliases)


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
    "scclip": {
        "voc21": _scclip(50, 0.15, area=0.1),
        "voc20": _scclip(),
        "context60": _scclip(40, 0.15),
        "context59": _scclip(),
        "coco_object": _scclip(55, 0.35),
        "coco_stuff": _scclip(),
        "cityscapes": _scclip(short_side=560),
        "ade20k": _scclip(),
    },
    "resclip": {
        "voc21": _resclip(0.3, (2.2, 0.7), 0.5, 0.1, crop=0),
        "voc20": _resclip(0.6, (2.1, 0.6), 0.1, crop=0),
        "context60": _resclip(0.3, (1.8, 0.7), 0.3, 0.1),
        "context59": _resclip(0.4, (1.8, 0.7), 0.25),
        "coco_object": _resclip(0.4, (1.8, 0.7), 0.11, 0.1),
        "coco_stuff": _resclip(0.4, (1.8, 0.7), 0.11),
        "cityscapes": _resclip(0.2, (2.1, 0.6), 0.1, short_side=560),
        "ade20k": _resclip(0.3, (2.1, 0.7), 0.25),
    },
    "proxyclip": {
        "voc21": _proxyclip(0.2),
        "voc20": _proxyclip(),
        "context60": _proxyclip(0.15),
        "context59": _proxyclip(),
        "coco_object": _proxyclip(0.25),
        "coco_stuff": _proxyclip(),
        "cityscapes": _proxyclip(short_side=448, crop=224),
        "ade20k": _proxyclip(short_side=448),
    },
    "corrclip": {
        "voc21": _corrclip(0.2),
        "voc20": _corrclip(),
        "context60": _corrclip(0.15),
        "context59": _corrclip(),
        "coco_object": _corrclip(0.25),
        "coco_stuff": _corrclip(),
        "cityscapes": _corrclip(short_side=448, crop=224),
        "ade20k": _corrclip(short_side=448),
    },
    "ovstitcher": {
        "voc21": _ovstitcher(0.1),
        "voc20": _ovstitcher(),
        "context60": _ovstitcher(0.1),
        "context59": _ovstitcher(),
        "coco_object": _ovstitcher(0.2),
        "coco_stuff": _ovstitcher(stride=224),
        "cityscapes": _ovstitcher(short_side=560, crop=224),
        "ade20k": _ovstitcher(),
    },
    "radseg": {
        "voc20": _radseg(576, stride=112),
        "context59": _radseg(688),
        "coco_stuff": _radseg(336),
        "cityscapes": _radseg(448),
        "ade20k": _radseg(576),
    },
    "vip": {
        "voc21": _vip(3, 0.3, 0.28),
        "voc20": _vip(4, 1),
        "context60": _vip(2.2, 1, 0.1),
        "context59": _vip(2, 1),
        "coco_object": _vip(6, 0.3, 0.13),
        "coco_stuff": _vip(5, 10, short_side=448),
        "cityscapes": _vip(2, 10, short_side=560),
        "ade20k": _vip(5, 5),
    },
    # the short side is recorded for VOC and Cityscapes; 336 elsewhere is this project's reading
    "rfclip": {
        "voc21": _rfclip(0.03, 0.1, 0.10, 0.1, crop=0),
        "context60": _rfclip(0.04, 0.25, 0.09, 0.1),
        "coco_object": _rfclip(0.01, 0.25, 0.10, 0.1),
        "coco_stuff": _rfclip(0.02, 0.2, 0.02),
        "cityscapes": _rfclip(0.03, 0.1, 0.14, short_side=560, token="window"),
        "ade20k": _rfclip(0.05, 0.3, 0.06),
    },
    "sam3": {"voc21": (_SAM3_SIDE, _windows(224, 112, 40, 0.4))},  # windows and scale have no effect
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
