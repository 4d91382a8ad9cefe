"""For research: MMSegmentation, evaluation, comparison, data preparation, benchmarks, trained zero-shot methods."""
