"""The programs that prepare data sets, one file each, named like the scripts in `tools/` and `datasets/`."""
