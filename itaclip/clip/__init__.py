"""CLIP: load its weights, and read its image tower block by block."""

from itaclip.clip.loading import load_clip
from itaclip.clip.trunk import Trunk

__all__ = ["Trunk", "load_clip"]
