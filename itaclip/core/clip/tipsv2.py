"""Load TIPSv2 (Maninis et al., CVPR 2026, arXiv 2604.12012) through Transformers."""

from __future__ import annotations

from pathlib import Path

from transformers import Tipsv2Config, Tipsv2Model

from itaclip.core.clip import facts
from itaclip.core.clip.facts import Fact
from itaclip.core.clip.image_text import ImageTextModel, MaskedText
from itaclip.core.clip.tokenizer_source import TokenizerSource
from itaclip.core.clip.transformers_config import CONFIG
from itaclip.core.clip.transformers_models import build, read_library_config, read_tensors

_UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixels in [0, 1], without mean and deviation


def load_tipsv2(folder: Path) -> ImageTextModel:
    """Load a folder in Transformers' layout or in that of the published checkpoints: both towers and the tokenizer.

    Args:
        folder: contains ``config.json`` with the model type "tipsv2", the weights, and a tokenizer.

    Raises:
        ItaclipError: a file is missing or damaged, or the weights do not fit the configuration.
    """
    path = folder / CONFIG
    config = read_library_config(Tipsv2Config, path)
    state, file = read_tensors(folder)
    # the temperature is learned, but not part of the published checkpoints; a mask token is for training alone
    model = build(Tipsv2Model, config, state, file, optional=("temperature", "mask_token"))
    image, text = config.vision_config, config.text_config
    found = (
        facts.heads(facts.IMAGE_HEADS, image.num_attention_heads, image.hidden_size, str(path)),
        facts.heads(facts.TEXT_HEADS, text.num_attention_heads, text.hidden_size, str(path)),
        facts.normalisation(*_UNIT, "as all TIPSv2 models"),
        Fact(facts.TOKENIZER, str(folder), "its folder"),
    )
    return ImageTextModel(
        model.vision_model, MaskedText(model.text_model, text.pad_token_id or 0),
        lambda pixels: model.vision_model(pixels).pooler_output,
        temperature=float(model.temperature),
        tokenizer=TokenizerSource(str(folder), text.max_position_embeddings, options=(("clean", "lower"),)),
        facts=found, statistics=_UNIT,
    )  # fmt: skip
