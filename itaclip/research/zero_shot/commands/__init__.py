"""The programs `tools/train.py`, `tools/test.py` and `tools/get_flops.py`."""
