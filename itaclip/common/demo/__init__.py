"""The bundled demo: a drawn town, a CLIP trained on it, and a held-out data set."""
