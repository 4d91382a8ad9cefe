"""The architectures of OpenAI's layout in open_clip's registry, read as data: importing open_clip is slow.

A file in this layout holds no number of heads: its matrices are the same for any. The shapes of published models tell
most of it, since each of them was trained with one number of heads only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_TOWERS = ("image", "text")


@dataclass(frozen=True)
class Architecture:
    """An architecture of OpenAI's layout.

    Attributes:
        name: its name in open_clip.
        quick_gelu: whether its activation is QuickGELU.
        sizes: its sizes, under the names of `itaclip.core.clip.facts.measured_sizes`.
        heads: attention heads by tower, "image" and "text".
    """

    name: str
    quick_gelu: bool
    sizes: Mapping[str, int]
    heads: Mapping[str, int]


def stated_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Read the sizes of the towers that open_clip builds itself from one of its configurations.

    Sizes that are missing have open_clip's defaults. Towers of timm and Transformers are left out.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    found: dict[str, int] = {}
    if not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list):
        width, patch, side = vision.get("width", 768), vision.get("patch_size", 16), vision.get("image_size", 224)
        height, across = side if isinstance(side, (list, tuple)) else (side, side)
        found |= {
            "width of the image tower": width, "blocks of the image tower": vision.get("layers", 12),
            "hidden width of the image tower": int(width * vision.get("mlp_ratio", 4.0)), "patch size": patch,
            "patches per image": (height // patch) * (across // patch),
            "channels of the joint space": config["embed_dim"],
        }  # fmt: skip
    if not text.get("hf_model_name"):
        width = text.get("width", 512)
        found |= {
            "width of the text tower": width, "blocks of the text tower": text.get("layers", 12),
            "hidden width of the text tower": int(width * text.get("mlp_ratio", 4.0)),
            "context length": text.get("context_length", 77) + bool(text.get("embed_cls")),
            "vocabulary": text.get("vocab_size", 49408),
        }  # fmt: skip
    return found


def heads_of(tower: str, sizes: Mapping[str, int]) -> dict[int, list[str]]:
    """Find the numbers of heads of known towers with the same width, blocks and hidden width.

    Args:
        tower: "image" or "text".
        sizes: sizes of the model.

    Returns:
        Names of architectures by number of heads; empty if no known tower has these sizes.
    """
    names = [f"{part} of the {tower} tower" for part in ("width", "blocks", "hidden width")]
    found: dict[int, list[str]] = {}
    for known in _known():
        if tower in known.heads and all(known.sizes.get(name) == sizes.get(name) for name in names):
            found.setdefault(known.heads[tower], []).append(known.name)
    return found


def like(sizes: Mapping[str, int]) -> list[Architecture]:
    """Find the architectures with the same sizes; the size of images may differ, as after a fine-tune."""
    given = {name: size for name, size in sizes.items() if name != "patches per image"}
    found = [known for known in _known() if all(known.sizes.get(name) == size for name, size in given.items())]
    return sorted(found, key=lambda known: (known.sizes["patches per image"] != sizes.get("patches per image"),
                                            len(known.name)))  # fmt: skip


@cache
def _known() -> tuple[Architecture, ...]:
    return tuple(_read())


def _read() -> Iterator[Architecture]:
    found = find_spec("open_clip")
    assert found is not None, "open_clip is a requirement of this package"
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0]) / "model_configs"
    for path in sorted(folder.glob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        vision, text, sizes = config["vision_cfg"], config["text_cfg"], stated_sizes(config)
        other = {"attentional_pool", "pool_type", "ls_init_value", "no_ln_pre"} & vision.keys()
        if other or "width of the image tower" not in sizes:
            continue
        heads = {"image": vision.get("width", 768) // vision.get("head_width", 64)}
        if "width of the text tower" in sizes:
            heads["text"] = text.get("heads", 8)
        yield Architecture(path.stem, bool(config.get("quick_gelu", False)), sizes, heads)
