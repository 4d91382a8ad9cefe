"""Prepare data sets: convert annotations, check folders, add custom data sets.

Only `check` and `layout` import torch and MMSegmentation, so worker processes start quickly.
"""
