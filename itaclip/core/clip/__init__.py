"""CLIP: load its weights, and read its image tower block by block."""

from itaclip.core.clip.loading import load_clip
from itaclip.core.clip.trunk import Trunk

__all__ = ["Trunk", "load_clip"]
