"""Names of models."""

from __future__ import annotations

from pathlib import Path

DEMO = "demo"
"""Name of the miniature CLIP that comes with the package."""

OPENAI_NAMES = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""Published names of OpenAI's models, and open_clip's."""

_ADDRESS = "https://openaipublic.azureedge.net/clip/models"

OPENAI_WEIGHTS = {
    "ViT-B-32": {
        "url": f"{_ADDRESS}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "hf_hub": "timm/vit_base_patch32_clip_224.openai/",
    },
    "ViT-B-16": {
        "url": f"{_ADDRESS}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "hf_hub": "timm/vit_base_patch16_clip_224.openai/",
    },
    "ViT-L-14": {
        "url": f"{_ADDRESS}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "hf_hub": "timm/vit_large_patch14_clip_224.openai/",
    },
    "ViT-L-14-336": {
        "url": f"{_ADDRESS}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
        "hf_hub": "timm/vit_large_patch14_clip_336.openai/",
    },
}
"""Addresses of OpenAI's weights, copied from open_clip's registry to avoid importing it. URLs contain the sha256."""


def is_path(name: str) -> bool:
    """Tell whether a name exists as a path, ends like a weight file, or starts like a path; not so 'ViT-B/16'."""
    if name.partition(":")[0] in OPENAI_NAMES:  # 'ViT-B/16:FILE'
        return False
    looks = name.endswith((".pt", ".pth", ".bin", ".safetensors")) or name.startswith(("./", "../", "/", "~"))
    return (looks and ":" not in Path(name).parts[0]) or Path(name).exists()
