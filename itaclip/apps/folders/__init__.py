"""Labelling of files, folders and videos."""
