#!/usr/bin/env bash
# YOLO's text files hold boxes or, for segmentation, polygons. datumaro's export to yolo_ultralytics writes boxes alone: of
# a data set of polygons and masks it writes the images and empty text files, and reports success.
# Seen with datumaro 1.13.12:
#   box: '0 0.500000 0.500000 0.500000 0.600000'
#   polygon: ''
#   mask: ''
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with datumaro==1.13.12
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
from pathlib import Path

import datumaro
import numpy as np
from datumaro.components.annotation import Bbox, Mask, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

mask = np.zeros((10, 12), bool)
mask[2:8, 3:9] = True
KINDS = {"box": Bbox(3, 2, 6, 6, label=0), "polygon": Polygon([3, 2, 9, 2, 9, 8, 3, 8], label=0), "mask": Mask(mask, label=0)}
image = Image.from_numpy(np.zeros((10, 12, 3), np.uint8))
items = [
    DatasetItem(f"{kind}_{subset}", subset=subset, media=image, annotations=[one])
    for kind, one in KINDS.items()
    for subset in ("train", "val")
]
Dataset.from_iterable(items, categories=["cat"]).export("out", "yolo_ultralytics", save_media=True)
print(f"datumaro {datumaro.__version__}")
found = {kind: Path(f"out/labels/train/{kind}_train.txt").read_text().strip() for kind in KINDS}
for kind, text in found.items():
    print(f"  {kind}: {text!r}")
assert found["box"] and not found["polygon"] and not found["mask"], "changed"
PYTHON
