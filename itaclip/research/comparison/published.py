"""Published mIoU in percent, each number with its source. This project measured none of them.

Tables disagree about the same method because protocols and class words differ, so always quote
a number with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ALL = ("voc21", "context60", "coco_object", "voc20", "cityscapes", "context59", "ade20k", "coco_stuff")
"""Data sets by the names of `itaclip.research.evaluation.presets.DATASETS`, in the order of most tables."""

WITHOUT_BACKGROUND = ("voc20", "context59", "coco_stuff", "cityscapes", "ade20k")


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Attributes:
        label: name of the method in the table.
        scores: mIoU in percent by data set.
        source: where the row was published.
        backbone: the image tower and its training data.
        extra: further models that the method uses.
        method: the corresponding key of `itaclip.core.methods.METHODS`, if any.
        pamr: whether the scores include PAMR.
        clip: whether the backbone is a CLIP: two towers trained on images and their texts alone.
    """

    label: str
    scores: Mapping[str, float]
    source: str
    backbone: str = "OpenAI ViT-B/16"
    extra: str = ""
    method: str | None = None
    pamr: bool = False
    clip: bool = True


def published_score(method: str, dataset: str, pamr: bool) -> tuple[float, str] | None:
    """Find a published score of a method with OpenAI's ViT-B/16, or of a model of its own, and its source.

    None if there is none.

    A method's own README takes precedence over other papers' tables.
    """
    for row in TABLES:
        comparable = row.backbone == "OpenAI ViT-B/16" or not row.clip
        if row.method == method and row.pamr == pamr and dataset in row.scores and comparable:
            return row.scores[dataset], row.source
    return None


def _scores(datasets: tuple[str, ...], line: str) -> dict[str, float]:
    """Parse numbers separated by spaces; "-" marks a missing one."""
    values = line.split()
    return {name: float(value) for name, value in zip(datasets, values, strict=True) if value != "-"}


def _table(text: str, source: str, clip: bool = True) -> list[Row]:
    """Parse lines ``label | extra models | numbers [| backbone [| source]]``, numbers in the order of `ALL`."""
    rows = []
    for line in text.strip().splitlines():
        label, extra, numbers, *more = (part.strip() for part in line.split("|"))
        backbone = more[0] if more and more[0] else "OpenAI ViT-B/16"
        rows.append(Row(label, _scores(ALL, numbers), more[1] if len(more) > 1 else source, backbone, extra,
                        _METHOD_OF.get(label), clip=clip))  # fmt: skip
    return rows


_METHOD_OF = {"CLIP": "clip", "MaskCLIP": "maskclip", "SCLIP": "sclip", "ClearCLIP": "clearclip", "NACLIP": "naclip",
              "GEM": "gem", "ResCLIP": "resclip", "SC-CLIP": "scclip", "ProxyCLIP": "proxyclip",
              "CorrCLIP": "corrclip", "OV-Stitcher": "ovstitcher", "RF-CLIP": "rfclip",
              "SegEarth-OV3": "sam3"}  # fmt: skip

# --- the methods' own READMEs ------------------------------------------------

_READMES = [
    Row("SCLIP", _scores(ALL, "59.63 31.74 33.52 81.54 32.34 34.46 16.45 22.77"), "SCLIP's README", method="sclip"),
    Row("NACLIP + PAMR", _scores(ALL, "64.07 34.99 36.19 83.03 38.27 38.35 19.05 25.69"),
        "NACLIP's README (September 2024)", method="naclip", pamr=True),
    Row("NACLIP + PAMR, first version", _scores(ALL, "62.36 34.99 36.19 80.60 38.27 38.35 19.05 25.18"),
        "NACLIP's README (April 2024)", pamr=True),
    Row("ITACLIP + PAMR", _scores(ALL, "67.9 37.5 37.7 - 40.2 - - 27.0"), "ITACLIP's README and paper",
        method="itaclip", pamr=True),
    Row("ITACLIP", _scores(ALL, "65.6 36.0 36.4 - 39.2 - - 26.3"), "ITACLIP's paper, ablation of PAMR",
        method="itaclip"),
    Row("ClearCLIP", _scores(ALL, "- - - 80.9 30.0 35.9 16.7 23.9"), "ClearCLIP's README", method="clearclip"),
]  # fmt: skip

# --- ClearCLIP's README: a base method in its implementation, then with ClearCLIP's changes ---

_CLEARCLIP_PAIRS = {
    "ViT-B": """
CLIP     | 41.8 9.2 4.4 5.5 2.1      | 80.9 35.9 23.9 30.0 16.7
BLIP     | 37.3 7.8 5.4 4.3 2.0      | 73.5 31.4 21.3 23.8 13.5
OpenCLIP | 47.2 9.0 5.0 5.1 2.9      | 81.4 34.1 23.1 31.8 18.9
MetaCLIP | 35.4 8.1 4.3 5.0 2.2      | 78.3 34.8 23.5 27.9 17.4
MaskCLIP | 74.9 26.4 16.4 12.6 9.8   | 61.4 28.3 18.4 24.7 13.6
SCLIP    | 78.2 33.0 21.1 29.1 14.6  | 77.9 35.6 23.6 31.0 17.0
GEM      | 79.9 35.9 23.7 30.8 15.7  | 80.2 36.5 24.4 30.5 17.4
""",
    "ViT-L": """
CLIP     | 15.8 4.5 2.4 2.9 1.2      | 80.0 29.6 19.9 27.9 15.0
BLIP     | 22.5 5.8 2.4 3.8 1.5      | 67.5 16.8 11.5 9.3 7.1
OpenCLIP | 39.7 7.0 4.1 3.9 2.3      | 65.3 27.9 19.5 26.4 16.0
MetaCLIP | 22.7 6.2 3.6 5.1 2.2      | 78.2 30.3 20.5 25.6 16.4
MaskCLIP | 30.1 12.6 8.9 10.1 6.9    | 65.1 26.5 17.6 21.2 15.1
SCLIP    | 60.3 20.5 13.1 17.0 7.1   | 79.2 30.6 20.5 27.8 15.6
GEM      | 80.3 26.4 17.6 22.6 11.6  | 79.7 29.9 19.4 25.9 14.2
""",
}


def _clearclip_rows() -> list[Row]:
    rows = []
    for size, text in _CLEARCLIP_PAIRS.items():
        for line in text.strip().splitlines():
            label, base, changed = (part.strip() for part in line.split("|"))
            trained = label if label in ("BLIP", "OpenCLIP", "MetaCLIP") else "OpenAI"
            backbone = f"{trained} {'ViT-B/16' if size == 'ViT-B' else size}"
            source = f"ClearCLIP's README, its own implementation ({size})"
            rows.append(Row(label, _scores(WITHOUT_BACKGROUND, base), source, backbone, "", _METHOD_OF.get(label)))
            rows.append(Row(f"{label} + ClearCLIP", _scores(WITHOUT_BACKGROUND, changed), source, backbone))
    return rows


# --- training-free methods of 2025 and 2026 ----------------------------------

_ACTIVE = "ActiveSAM's repository at 41cad43, table 1"
_AUDIT = "ovss-vocab-audit at 217dc24, quoting the paper"
_STITCHER = "OV-Stitcher (arXiv 2604.08110), table 1"
_NOTE = "third-party note"
_FIELD = _table(f"""
CLIP        |             | 18.6 7.8 6.5 49.1 6.7 11.2 3.2 5.7
MaskCLIP    |             | 43.4 23.2 20.6 74.9 24.9 26.4 11.9 16.7
ClearCLIP   |             | 51.8 32.6 33.0 80.9 30.0 35.9 16.7 23.9
SCLIP       |             | 59.1 30.4 30.5 80.4 32.2 34.2 16.1 22.4
NACLIP      |             | 58.9 32.2 33.2 79.7 35.5 35.2 17.4 23.3
ResCLIP     |             | 61.1 33.5 35.0 86.0 35.9 36.8 18.0 24.7
PEARL       |             | 64.1 35.1 37.3 86.9 37.6 38.6 19.4 26.3
DIH-CLIP    |             | 64.2 36.0 37.4 84.9 40.2 39.7 19.6 26.7
SC-CLIP     |             | 64.6 36.8 37.7 84.3 41.0 40.1 20.1 26.6
SFP         | as listed   | 62.9 37.2 37.9 84.5 41.1 39.9 20.8 26.4
ProxyCLIP   | DINO-B/8    | 61.3 35.3 37.5 80.3 38.1 39.1 20.2 26.5
LPOSS       | DINO        | 61.1 34.6 33.4 78.8 37.3 37.8 21.8 25.9 || as reproduced by PEARL
GLA-CLIP    | DINO        | 66.3 36.1 37.7 - 40.8 - 20.0 -          || {_NOTE}
CASS        | DINO        | 65.8 36.7 37.8 87.8 39.4 40.2 20.4 26.7
Trident     | DINO, SAM   | 67.1 38.6 41.1 84.5 42.9 42.2 21.9 28.3
DSLO        | SD v2       | 67.8 38.3 - - 43.3 - 23.0 28.9          || {_NOTE}
CorrCLIP    | DINO, SAM2  | 72.2 41.6 40.7 88.7 44.6 47.1 23.7 30.7
OV-Stitcher | DINO, SAM2  | 75.7 43.9 42.6 89.8 48.1 48.8 24.7 31.8
OV-Stitcher | DINO, SAM2  | 74.0 43.4 46.5 90.2 50.6 48.6 27.7 31.6 | OpenAI ViT-L/14
OV-Stitcher without SAM post-processing | DINO, SAM2 | 73.1 42.4 41.4 87.6 45.4 47.1 23.6 30.7
CorrCLIP    | SAM2        | 74.8 44.2 43.7 88.8 49.4 48.8 26.9 31.6 | MetaCLIP ViT-B/16
CorrCLIP    | EntitySeg   | 76.2 45.7 44.5 89.6 51.6 50.7 28.6 32.4 | MetaCLIP ViT-B/16 | CorrCLIP's README
OV-Stitcher |             | 76.4 43.9 44.6 88.7 52.3 49.1 27.8 32.1 | MetaCLIP ViT-B/16
CorrCLIPv2-B | RADIOv3, EntitySeg, COCO memory bank | 82.2 50.8 54.6 93.6 58.7 56.3 33.2 38.5 | MetaCLIP | review
RF-CLIP      |            | 64.8 36.4 37.9 - - - - -                || {_AUDIT}
RF-CLIP, best setting | perhaps ViT-L/14 too | 67.2 37.9 39.1 87.0 43.0 41.4 21.0 27.5 | not stated | {_ACTIVE}
CorrCLIP, best setting | DINO, SAM2 | 76.7 44.9 49.4 91.5 51.1 50.8 30.7 34.0 | not stated | {_ACTIVE}
ReME         | DINOv2-L, SAM-L, reference set | 82.2 44.6 48.2 93.2 59.0 53.1 28.2 33.3 | CLIP | {_ACTIVE}
""", _STITCHER)  # fmt: skip

# --- other encoders: not CLIP ------------------------------------------------

_TIPS = "README of google-deepmind/tips at 4db271d"
_LISTED = "wizwand's list; not compared with the paper"
_NOT_CLIP = _table(f"""
Talk2DINO (a trained projection) | DINOv2-B | 65.8 37.7 45.1 88.5 38.1 42.4 22.5 30.2 | CLIP's text tower, DINOv2
TIPSv2, values of the last block |          | - - - - - - 17.4 -                       | TIPSv2 B/14      | {_TIPS}
TIPSv2, values of the last block |          | - - - - - - 24.7 -                       | TIPSv2 L/14      | {_TIPS}
TIPSv2, values of the last block |          | - - - - - - 23.3 -                       | TIPSv2 SO400M/14 | {_TIPS}
TIPSv2, values of the last block |          | - - - - - - 17.8 -                       | TIPSv2 g/14      | {_TIPS}
VIP          |               | 73.2 - 52.4 - 55.7 - 29.1 -              | dino.txt, DINOv3 ViT-L/16 | {_LISTED}
SAM 3        |                              | 81.9 46.1 65.4 88.9 62.3 50.0 31.8 33.3  | SAM 3
SegEarth-OV3 |                              | 79.8 53.4 72.0 96.8 69.7 59.2 37.6 42.8  | SAM 3
ActiveSAM    |                              | 83.8 55.4 72.0 97.0 69.7 60.1 40.0 44.4  | SAM 3
""", _ACTIVE, clip=False)  # fmt: skip
"""SAM 3 was trained on masks, the others were not. RADSeg reports means of five data sets in a figure alone, and VIP
thresholds that leave pixels unlabelled on sets without a background, which its scores there do not count as errors of
another class."""

_ABLATIONS: dict[tuple[str, str], dict[str, float]] = {
    ("attention", "voc21"): {"qk": 19.0, "kk": 52.2, "vv": 57.7, "qq": 58.9, "qq+vv": 64.9, "qq+kk+vv": 66.4,
                             "qq+kk": 67.9},
    ("feed-forward network", "coco_stuff"): {"kept": 26.3, "dropped": 27.0},
    ("feed-forward network", "coco_object"): {"kept": 36.9, "dropped": 37.7},
    ("feed-forward network", "voc21"): {"kept": 66.3, "dropped": 67.9},
    ("feed-forward network", "context60"): {"kept": 36.3, "dropped": 37.5},
    ("feed-forward network", "cityscapes"): {"kept": 39.4, "dropped": 40.2},
    ("PAMR", "coco_stuff"): {"off": 26.3, "on": 27.0},
    ("PAMR", "coco_object"): {"off": 36.4, "on": 37.7},
    ("PAMR", "voc21"): {"off": 65.6, "on": 67.9},
    ("PAMR", "context60"): {"off": 36.0, "on": 37.5},
    ("PAMR", "cityscapes"): {"off": 39.2, "on": 40.2},
}  # fmt: skip
"""Ablations in ITACLIP's paper with ViT-B/16. The paper's table of middle layers (65.0 without them,
65.6 with layers 7, 8 and 10 on VOC21) is missing: it excludes PAMR, which `tools/ablate.py` keeps as configured."""


def published_ablation(group: str, variant: str, dataset: str) -> float | None:
    """Find the score in ITACLIP's paper for a variant of `itaclip.research.comparison.variants`; None if there is
    none."""
    return _ABLATIONS.get((group, dataset), {}).get(variant)


TABLES: tuple[Row, ...] = (*_READMES, *_clearclip_rows(), *_FIELD, *_NOT_CLIP)
"""All published rows, with the methods' own READMEs first."""
