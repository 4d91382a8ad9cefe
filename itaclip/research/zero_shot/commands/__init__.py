"""The programs `tools/train.py`, `tools/test.py` and `tools/get_flops.py`."""

import itaclip.research.openmmlab  # noqa: F401 - it says what to install
