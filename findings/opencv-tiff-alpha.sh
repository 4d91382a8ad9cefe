#!/usr/bin/env bash
# cv2.imread(path, IMREAD_COLOR) multiplies the colours of an RGBA TIFF by its alpha channel. The same pixels as PNG or WebP
# come back unchanged. A fourth band that is no alpha but is tagged as such (near infrared) darkens the colours likewise.
# Seen with opencv-python 5.0.0.93:
#   tif [50, 50, 50]  png [200, 200, 200]  webp [200, 200, 200]   (written: 200, 200, 200, alpha 64)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with opencv-python==5.0.0.93 pillow==12.3.0
cd "$work"
"$python" - <<'PYTHON'
import cv2
import numpy as np
from PIL import Image

image = Image.fromarray(np.array([[[200, 200, 200, 64]] * 4] * 4, np.uint8))
found = {}
for suffix in ("tif", "png", "webp"):
    image.save(f"alpha.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found[suffix] = cv2.imread(f"alpha.{suffix}", cv2.IMREAD_COLOR)[0, 0].tolist()
print(f"opencv {cv2.__version__}:", found)
assert found == {"tif": [50, 50, 50], "png": [200, 200, 200], "webp": [200, 200, 200]}, "changed"
PYTHON
