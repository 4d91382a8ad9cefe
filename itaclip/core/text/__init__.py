"""Text processing: class names and auxiliary texts become a text bank."""

from itaclip.core.text.auxiliary import read_auxiliary_texts, read_texts
from itaclip.core.text.bank import TextBank, build_text_bank
from itaclip.core.text.cache import TextCache, default_folder
from itaclip.core.text.class_names import ClassNames, parse_class_names, read_class_names
from itaclip.core.text.class_prompts import ClassPrompts, read_class_prompts
from itaclip.core.text.configured import ConfiguredClasses
from itaclip.core.text.encoder import TextEncoder

__all__ = ["ClassNames", "ClassPrompts", "ConfiguredClasses", "TextBank", "TextCache", "TextEncoder",
           "build_text_bank", "default_folder", "parse_class_names", "read_auxiliary_texts", "read_class_names",
           "read_class_prompts", "read_texts"]  # fmt: skip
