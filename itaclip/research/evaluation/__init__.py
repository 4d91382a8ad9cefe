"""Evaluation of a configuration: the code behind `python eval.py`."""
