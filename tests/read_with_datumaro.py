"""Read an export with datumaro, in an environment of its own: python read_with_datumaro.py FORMAT FOLDER OUT.npz.

OUT.npz holds a mask per image and class, named ``IMAGE|CLASS``, and the class names as ``classes``.
"""

import sys

import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset


def main(format: str, folder: str, out: str) -> None:
    dataset = Dataset.import_from(folder, format)
    classes = [label.name for label in dataset.categories()[AnnotationType.label]]
    found = {}
    for item in dataset:
        for one in item.annotations:
            if one.type == AnnotationType.mask:
                key = f"{item.id}|{classes[one.label]}"
                found[key] = np.asarray(one.image, bool) | found.get(key, False)
    np.savez_compressed(out, classes=np.array(classes), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
