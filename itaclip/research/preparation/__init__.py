"""Prepare data sets: convert annotations, check folders, add custom data sets.

Only `checks`, `layout`, `settings` and some commands import torch and MMSegmentation, so worker
processes start quickly.
"""
