"""CLIP: load its weights, and read its image tower block by block."""

from itaclip.core.clip.encoded import EncodedWindows
from itaclip.core.clip.loading import load_clip

__all__ = ["EncodedWindows", "load_clip"]
