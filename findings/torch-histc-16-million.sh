#!/usr/bin/env bash
# torch.histc counts in float32: a bin stops growing at 2**24 = 16,777,216.
# MMSegmentation 1.2's IoUMetric.intersect_and_union counts pixels with torch.histc, one image at a time, so an image with more
# than 16.8 million pixels of one class (4,097 x 4,097, common in aerial photographs) is counted wrongly, without a message.
# Seen with torch 2.14.1 on Linux, CPU:
#   20000000 zeros: histc counts 16777216, bincount counts 20000000
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with torch==2.14.1 numpy==2.4.6
"$python" - <<'PYTHON'
import torch

pixels = torch.zeros(20_000_000)
histc = int(torch.histc(pixels, bins=2, min=0, max=1)[0])
bincount = int(torch.bincount(pixels.long(), minlength=2)[0])
print(f"torch {torch.__version__}: {len(pixels)} zeros: histc counts {histc}, bincount counts {bincount}")
assert (histc, bincount) == (2**24, 20_000_000), "changed"
PYTHON
