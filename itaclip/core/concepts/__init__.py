"""Concept segmenters: models that take words and return their maps. They are not CLIP.

`sam3.py` runs SAM 3, `fusion.py` makes one map of what it finds for a prompt, and `pipeline.py` gives it
the interface of `itaclip.core.pipeline.Pipeline`: class names in, label map out.
"""
