"""The bundled demo: a miniature world of textures, its CLIP, and a held-out data set."""
