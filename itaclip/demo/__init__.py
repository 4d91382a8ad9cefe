"""The bundled demo: a drawn town, its CLIP, and a held-out data set."""
