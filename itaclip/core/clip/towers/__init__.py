"""Image towers: one interface for methods, one adapter per family."""

from __future__ import annotations

from typing import Any

from itaclip.core.clip.openai import ImageTower
from itaclip.core.clip.towers.openai import OpenAITower
from itaclip.core.clip.towers.tower import MEAN, STD, Grid, PatchProjection, Positions, Tower, TowerBlock

__all__ = ["MEAN", "STD", "Grid", "PatchProjection", "Positions", "Tower", "TowerBlock", "as_tower"]


def as_tower(visual: Any) -> Tower:
    """Wrap an image tower in the adapter of its family.

    Raises:
        ItaclipError: a tower without patch tokens in pre-norm blocks. The message names its type.
    """
    if isinstance(visual, ImageTower):
        return OpenAITower(visual)
    module = type(visual).__module__
    if module == "itaclip.core.clip.dinotxt":
        from itaclip.core.clip.towers.dinotxt import DinoTxtTower

        return DinoTxtTower(visual)
    if module.startswith("transformers.") or module == "itaclip.core.clip.radio":
        from itaclip.core.clip.towers.transformers_vit import RadioTower, TipsTower  # here, as what they wrap

        return TipsTower(visual) if hasattr(visual, "embeddings") else RadioTower(visual)
    from itaclip.core.clip.towers.libraries import wrap  # here, because it imports open_clip and timm

    return wrap(visual)
