"""Evaluation of a configuration: `python eval.py` and what it is made of."""
