#!/usr/bin/env bash
# A TIFF of 8 x 4 pixels with orientation 6 (to be shown turned by 90 degrees), as scanners and some cameras write it.
# Since OpenCV 4.11, cv2.imread reports an error of its own on standard error and returns None; cv2.imdecode of the same bytes
# works, and so do PNG, JPEG and WebP with the same orientation. Seen:
#   opencv 4.10.0: imread (8, 4, 3) imdecode (8, 4, 3)
#   opencv 5.0.0: imread None imdecode (8, 4, 3)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$work"
for version in 4.10.0.84 5.0.0.93; do
  python_with "opencv-python==$version" pillow==12.3.0
  "$python" - 2>/dev/null <<'PYTHON'
import cv2
import numpy as np
from PIL import Image

image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
exif = image.getexif()
exif[274] = 6  # Orientation
image.save("turned.tif", exif=exif)
image.save("turned.png", exif=exif)
read = cv2.imread("turned.tif")
decoded = cv2.imdecode(np.fromfile("turned.tif", np.uint8), cv2.IMREAD_COLOR)
print(f"opencv {cv2.__version__}: imread", None if read is None else read.shape, "imdecode", decoded.shape)
assert cv2.imread("turned.png").shape == decoded.shape == (8, 4, 3)
assert (read is None) == cv2.__version__.startswith("5."), "changed"
PYTHON
done
