#!/usr/bin/env bash
# COCO's own files number categories from 1, but nothing in the format forbids 0. datumaro (and CVAT through it) keeps the
# category, warns once, and gives its annotations no label. Seen with datumaro 1.13.12:
#   first id 0: {'cat': None, 'sofa': 'sofa'}
#   first id 1: {'cat': 'cat', 'sofa': 'sofa'}
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with datumaro==1.13.12
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import json
from pathlib import Path

import datumaro
from datumaro import AnnotationType, Dataset
from PIL import Image

NAMES = ("cat", "sofa")
Path("data/images/val").mkdir(parents=True)
Path("data/annotations").mkdir()
Image.new("RGB", (6, 4)).save("data/images/val/a.png")
for first in (0, 1):
    boxes = {name: [i, 0, 2, 3] for i, name in enumerate(NAMES)}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "categories": [{"id": first + i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": first + i, "bbox": boxes[name], "area": 6, "iscrowd": 0}
            for i, name in enumerate(NAMES)
        ],
    }
    Path("data/annotations/instances_val.json").write_text(json.dumps(content))
    dataset = Dataset.import_from("data", "coco")
    labels = dataset.categories()[AnnotationType.label]
    found = {
        NAMES[int(box.x)]: None if box.label is None else labels[box.label].name
        for item in dataset for box in item.annotations
    }
    print(f"datumaro {datumaro.__version__}: first id {first}:", dict(sorted(found.items())))
    assert found == {"cat": "cat" if first else None, "sofa": "sofa"}, "changed"
PYTHON
