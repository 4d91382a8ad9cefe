"""CLIP: weights from any source, the dense image encoder, the methods' attention."""

from itaclip.clip.dense import DenseEncoder
from itaclip.clip.loading import load_clip
from itaclip.clip.methods import METHODS, Method, get_method

__all__ = ["METHODS", "DenseEncoder", "Method", "get_method", "load_clip"]
