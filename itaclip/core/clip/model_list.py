"""Catalogue of the models that load by name: layout, tests, published accuracy and local files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from itaclip.core.clip import families
from itaclip.core.clip.download import local_folder, locate
from itaclip.core.clip.towers.libraries import refusal
from itaclip.core.clip.transformers_config import CONFIG

TRUE_SIZE = ("ViT-B-16", "ViT-B-16-SigLIP2", "EVA02-B-16", "PE-Core-B-16", "ViT-H-14-CLIPA", "coca_ViT-B-32")
"""Architectures whose image towers the full tests compare with open_clip's at their true size.
The weights are random, as in all tests, because published ones were not available."""

SOURCE = "README of open_clip 3.3.0"

IMAGENET = {
    ("ViT-B-32-256", "datacomp_s34b_b86k"): 72.8,
    ("ViT-B-16", "datacomp_xl_s13b_b90k"): 73.5,
    ("ViT-L-14", "laion2b_s32b_b82k"): 75.3,
    ("ViT-H-14", "laion2b_s32b_b79k"): 78.0,
    ("ViT-L-14", "datacomp_xl_s13b_b90k"): 79.2,
    ("ViT-bigG-14", "laion2b_s39b_b160k"): 80.1,
    ("ViT-L-14-quickgelu", "openai"): 75.5,
    ("ViT-SO400M-14-SigLIP", "webli"): 82.0,
    ("ViT-L-14", "dfn2b_s39b"): 82.2,
    ("ViT-L-16-SigLIP2-256", "webli"): 82.5,
    ("ViT-SO400M-14-SigLIP-384", "webli"): 83.1,
    ("ViT-H-14-quickgelu", "dfn5b"): 83.4,
    ("PE-Core-L-14-336", "meta"): 83.5,
    ("ViT-SO400M-16-SigLIP2-384", "webli"): 84.1,
    ("ViT-H-14-378-quickgelu", "dfn5b"): 84.4,
    ("ViT-gopt-16-SigLIP2-384", "webli"): 85.0,
    ("PE-Core-bigG-14-448", "meta"): 85.4,
}
"""Published zero-shot accuracy on ImageNet in percent, from `SOURCE`. None of it was measured here."""


@dataclass(frozen=True)
class Model:
    """One set of published weights.

    Attributes:
        name: name of the architecture, as in open_clip.
        tag: tag of the weights; empty if the name is enough.
        family: the family of the image tower's layout, or why the tower is not supported.
        image: side in pixels of the training images.
        patch: side of a patch in pixels; None if the configuration does not state it.
        channels: channels of the joint space.
        tested: "true size", "family" (reduced models of the family), or empty if not supported.
        imagenet: published zero-shot accuracy in percent, or None.
        weights: the local weight file, or None.
    """

    name: str
    tag: str
    family: str
    image: int
    patch: int | None
    channels: int
    tested: str
    imagenet: float | None
    weights: Path | None


def models() -> Iterator[Model]:
    """List all weights in open_clip's registry, by architecture."""
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"]
        reason = refusal(vision)
        family = f"refused: {reason.partition(':')[0]}" if reason else _family(vision)
        for tag in open_clip.list_pretrained_tags_by_model(name):
            image = vision.get("image_size", 224)
            yield Model(
                name, tag, family, image[0] if isinstance(image, (list, tuple)) else image, _patch(vision),
                config["embed_dim"], "" if reason else "true size" if name in TRUE_SIZE else "family",
                IMAGENET.get((name, tag)), locate(name, tag, get_pretrained_cfg(name, tag)),
            )  # fmt: skip


def other_models() -> Iterator[Model]:
    """List the models of `itaclip.core.clip.families`; their image sides are those of the windows."""
    for name, hub in families.NAMES.items():
        radio = name.startswith("c-radio")
        folder = local_folder(hub)
        yield Model(
            name, "", "C-RADIO with SigLIP 2's adaptor" if radio else "TIPSv2", 336 if radio else 448,
            16 if radio else 14, _CHANNELS.get(name, 1536), "true size" if name == "tipsv2-b14" else "family", None,
            folder if folder is not None and (folder / CONFIG).is_file() else None,
        )  # fmt: skip


_CHANNELS = {"tipsv2-b14": 768, "tipsv2-l14": 1024, "tipsv2-so400m14": 1152}


def _family(vision: Mapping[str, Any]) -> str:
    name = vision.get("timm_model_name")
    if name is None:
        if vision.get("attentional_pool"):
            return "open_clip, attention pooling"
        return "open_clip, mean pooling" if vision.get("pool_type") == "avg" else "OpenAI's layout"
    if "siglip" in name:
        return "SigLIP"
    return "PE-Core" if "pe_core" in name else "EVA" if name.startswith("eva") else "timm's ViT"


def _patch(vision: Mapping[str, Any]) -> int | None:
    name = vision.get("timm_model_name")
    found = re.search(r"patch(\d+)", name) if name else None
    if found:
        return int(found.group(1))
    side = None if name else vision.get("patch_size", 16)
    return None if side is None else int(side)
