"""Run OV-Stitcher on the inputs of a recorded file, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from itaclip.core.clip.openai import CLIP
from itaclip.core.encoder import DenseEncoder
from itaclip.core.methods import OVStitcher, Window
from itaclip.core.regions.maps import dense_ranks, resize_map
from itaclip.core.second_encoders import SecondEncoder
from itaclip.core.stitching import Canvas, image_grid
from itaclip.core.whole_image import WholeImage, WindowReader, regions_shown
from itaclip.core.windows import WindowPlan, cut_windows, stitch

FINE = 8
"""Side of the recorded second encoder's patches."""


def stages(arrays: dict[str, Any], clip: CLIP, case: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Compute the recorded stages of a case, by name.

    Args:
        arrays: the recorded file.
        clip: the model with which it was recorded.
        case: prefix of the case's arrays.
        options: side of a window, ``crop``, and ``stride``.
    """
    method = OVStitcher().for_depth(len(clip.visual.transformer.resblocks))
    encoder = DenseEncoder(clip.visual, method)
    pixels = torch.from_numpy(arrays[f"{case}/image"][0]).float()
    size = (pixels.shape[1], pixels.shape[2])
    patch = encoder.patch_size
    plan = WindowPlan.of(size, options["crop"], options["stride"], patch, "centre")
    found: dict[str, Tensor] = {}
    if f"{case}/qkv" in arrays:
        features = _features(arrays, case, plan)
        found["dino_feats"] = features[0].flatten(1).T
    else:
        features = torch.from_numpy(arrays[f"{case}/dino_feats"]).float().T.unflatten(1, image_grid(plan, FINE))[None]

    ids, count = dense_ranks(resize_map(arrays[f"{case}/masks"], image_grid(plan, FINE))[None])
    window = Window(pixels[None], features=features, regions=torch.from_numpy(ids), region_count=count)
    image = WholeImage(encoder.tower, method, plan, window, FINE, regions_shown(ids[0], plan, patch), views=False)
    found["merged"] = image.regions[0]
    reader = WindowReader(image, 0, plan.count)
    for step in encoder.steps(cut_windows(pixels, plan, 0, plan.count), image.needs):
        reader.see(step)
    reader.finish()
    encoded, whole = image.stitched()
    if f"{case}/branches" in arrays:
        assert whole.region_tokens is not None
        main, spatial = method.attended(encoded, features, image.regions, method.spatial(encoded))
        found["branches"] = torch.cat([main, spatial, whole.region_tokens.flatten(1, 2)])
    tokens = method.tokens(encoded, whole)
    found["tokens"] = tokens[0].flatten(0, 1)
    logits = F.normalize(tokens, dim=-1) @ torch.from_numpy(arrays["text"]).T
    found["logits"] = logits[0].flatten(0, 1)
    found["labels"] = stitch(logits, WindowPlan.of(size, 0, 1, patch=1), size).argmax(0)
    return found


def partition_faults(ours: Tensor, theirs: NDArray[Any]) -> float:
    """Count how many pairs of ids there are beyond one pair per id: 0 if the partitions are equal."""
    pairs = np.stack([ours.numpy().ravel(), theirs.ravel()])
    different = len(np.unique(pairs, axis=1).T)
    return float(2 * different - len(np.unique(pairs[0])) - len(np.unique(pairs[1])))


def _features(arrays: dict[str, Any], case: str, plan: WindowPlan) -> Tensor:
    """Stitch the recorded inputs of the last block and run it: 1 x C x H x W, unit norm."""
    parts = [torch.from_numpy(arrays[f"{case}/{name}"])[:, 1:].float() for name in ("penultimate", "qkv")]
    canvas = Canvas(plan, FINE)
    canvas.add(torch.cat(parts, dim=2).unflatten(1, plan.grid_of(FINE))[None], 0)
    weights = {key.removeprefix("dino/"): torch.from_numpy(value) for key, value in arrays.items() if "dino/" in key}
    width, hidden = weights["proj_w"].shape[0], weights["fc1_w"].shape[0]
    model = VisionTransformer(
        img_size=plan.padded[0], patch_size=FINE, embed_dim=width, depth=1, num_heads=int(weights["heads"]),
        mlp_ratio=hidden / width, num_classes=0, dynamic_img_size=True,
    )  # fmt: skip
    block: Any = model.blocks[0]
    for name, module in {"proj": block.attn.proj, "n2": block.norm2, "fc1": block.mlp.fc1,
                         "fc2": block.mlp.fc2}.items():  # fmt: skip
        module.weight.data, module.bias.data = weights[f"{name}_w"], weights[f"{name}_b"]
    second = SecondEncoder(model, "the recorded encoder")
    return F.normalize(second.run_last_block(canvas.mean().movedim(3, 1)), dim=1)
