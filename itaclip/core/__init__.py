"""The pipeline: windows, views, methods, refinement and decision."""
