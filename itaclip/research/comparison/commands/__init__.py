"""The programs `tools/eval_all.py` and `tools/ablate.py`."""
