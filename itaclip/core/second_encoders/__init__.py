"""Second encoders: vision models whose features shape CLIP's attention.

    encoder = load_second_encoder("dino-vitb8")
    features = encoder(pixels)  # normalised for CLIP
    features.tokens, features.query_key

They are loaded by name through timm, from a file, or from a Hugging Face folder. Loading executes no code from files.
"""

from itaclip.core.second_encoders.encoder import Features, SecondEncoder
from itaclip.core.second_encoders.loading import DEMO, NAMES, load_second_encoder

__all__ = ["DEMO", "NAMES", "Features", "SecondEncoder", "load_second_encoder"]
