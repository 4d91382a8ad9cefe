"""Load what segments by name, a CLIP or SAM 3, and build what runs it."""

from __future__ import annotations

from typing import Any, cast

from itaclip.core.clip.loading import load_clip
from itaclip.core.concepts.options import is_concept_model
from itaclip.core.pipeline import Pipeline
from itaclip.core.settings import Settings
from itaclip.core.text import TextCache, TextEncoder
from itaclip.errors import ItaclipError


def load_model(name: str, pretrained: str | None = None, quick_gelu: bool | None = None) -> Any:
    """Load a CLIP, or SAM 3 as `itaclip.core.concepts.sam3.Sam3`, frozen, float32, on the CPU.

    Args:
        name: ``"sam3"``, ``"sam3:FOLDER"``, ``"sam3:NAME"`` of the hub's cache, or a CLIP (`load_clip`).
        pretrained: of a CLIP.
        quick_gelu: of a CLIP.

    Raises:
        ItaclipError: as for `load_clip`; or SAM 3 is not on this machine, damaged or another model.
    """
    if not is_concept_model(name):
        return load_clip(name, pretrained, quick_gelu)
    if pretrained is not None or quick_gelu is not None:
        raise ItaclipError(f"{name}: pretrained and quick_gelu belong to a CLIP; leave them out.")
    from itaclip.core.concepts.loading import load_sam3  # here, because it is rarely needed

    return load_sam3(name.partition(":")[2])


def build_parts(model: Any, settings: Settings, cache: TextCache | None) -> tuple[Pipeline, TextEncoder]:
    """Build what segments images and what encodes the classes, on the CPU.

    Args:
        model: from `load_model`.
        settings: how to run it.
        cache: for the features of CLIP's texts.

    Raises:
        ItaclipError: settings that the model cannot follow.
    """
    if hasattr(model, "encode_prompts"):
        from itaclip.core.concepts.pipeline import ConceptPipeline, PromptWords

        return ConceptPipeline(model, settings), cast(TextEncoder, PromptWords(model))
    pipeline = Pipeline(model, settings)
    return pipeline, TextEncoder(model, cache, pipeline.engine)
