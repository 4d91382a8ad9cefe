"""Comparisons of many evaluations: methods across data sets, and ablations of one method."""
