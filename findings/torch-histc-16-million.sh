#!/usr/bin/env bash
# torch.histc counts in float32: a bin stops growing at 2**24 = 16,777,216.
# MMSegmentation 1.2's IoUMetric.intersect_and_union counts pixels with torch.histc, one image at a time, so an image with more
# than 16.8 million pixels of one class (4,097 x 4,097, common in aerial photographs) is counted wrongly, without a message.
# Each thread counts a part of the pixels that way, so the limit is 2**24 per thread and the error depends on their number.
# Seen with torch 2.14.1 on Linux, CPU, one thread (as in data loaders and under OMP_NUM_THREADS=1):
#   20000000 zeros: histc counts 16777216, bincount counts 20000000
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python_with torch==2.14.1 numpy==2.4.6
"$python" - <<'PYTHON'
import torch

torch.set_num_threads(1)
pixels = torch.zeros(20_000_000)
histc = int(torch.histc(pixels, bins=2, min=0, max=1)[0])
bincount = int(torch.bincount(pixels.long(), minlength=2)[0])
print(f"torch {torch.__version__}: {len(pixels)} zeros: histc counts {histc}, bincount counts {bincount}")
assert (histc, bincount) == (2**24, 20_000_000), "changed"
PYTHON
