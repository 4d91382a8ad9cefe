"""Many evaluations side by side: methods on data sets, and ablations of one method."""
