"""The programs `tools/llama3_*_generation.py` and `tools/check_texts.py`."""
