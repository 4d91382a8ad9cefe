"""Text processing: class names and auxiliary texts become a text bank."""

from itaclip.text.auxiliary import read_auxiliary_texts, read_texts
from itaclip.text.bank import TextBank, build_text_bank
from itaclip.text.cache import TextCache, default_folder
from itaclip.text.class_names import ClassNames, parse_class_names, read_class_names
from itaclip.text.class_prompts import ClassPrompts, read_class_prompts
from itaclip.text.encoder import TextEncoder

__all__ = ["ClassNames", "ClassPrompts", "TextBank", "TextCache", "TextEncoder", "build_text_bank", "default_folder",
           "parse_class_names", "read_auxiliary_texts", "read_class_names", "read_class_prompts",
           "read_texts"]  # fmt: skip
