"""Train the demo's second image encoder without labels or captions: a miniature substitute for DINO.

    python tools/draw_demo_pool.py --out data/demo_pool
    python tools/train_demo_encoder.py --pool data/demo_pool --out demo_dino.safetensors
    python tools/train_demo_encoder.py --judge demo_dino.safetensors --out docs/results/demo_encoder.json

Uses only the images of the pool. Two windows of a scene differ in position, scale, mirroring,
colours and sharpness; where they overlap, their patches show the same content. Patches are assigned
to prototypes, evenly over a batch (Sinkhorn-Knopp), and each window must predict the other's
assignments at the same positions: SwAV (Caron et al., NeurIPS 2020) on corresponding patches, as in
PixPro (Xie et al., CVPR 2021) and DenseCL (Wang et al., CVPR 2021).

`--judge` measures on development scenes how well the cosine of two patches predicts that both
belong to the same class (area under the ROC curve): for the tokens, for q + k of the last block,
for the demo CLIP's tokens and for mean colour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from itaclip.research.demo.training import (
    SHORT_SIDE,
    Training,
    development_window,
    normalised,
    random_places,
    save_weights,
)

ARCHITECTURE = dict(img_size=112, patch_size=8, embed_dim=192, depth=5, num_heads=3, num_classes=0)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PATCH, GRID = 8, 14
WINDOW = 80  # pixels of a training window
PROTOTYPES, PROJECTED = 160, 96


# --- data --------------------------------------------------------------------


def load_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    """Load the images of the pool, reduced to the size needed for training."""
    pictures = []
    for path in sorted(folder.glob("shard_*.npz")):
        with np.load(path) as shard:
            pictures += [cv2.resize(i, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA) for i in shard["images"]]
    return pictures


def _look(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Augment colours and sharpness of a window; returns H x W x 3 float32 in [0, 1]."""
    x = image.astype(np.float32) / 255
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    x = (x - 0.5) * rng.uniform(0.75, 1.25) + 0.5
    if rng.random() < 0.15:
        x = np.repeat(x.mean(2, keepdims=True), 3, axis=2)
    if rng.random() < 0.25:
        x = cv2.GaussianBlur(x, (5, 5), rng.uniform(0.4, 1.5))
    return np.clip(x * gain, 0, 1).astype(np.float32)


def two_windows(image: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut two windows, 2 x side x side x 3, and the position of every patch of the first in the second (-1 to 1)."""
    height, width = image.shape[:2]
    views, boxes, mirrored = [], [], []
    centre = np.array([rng.uniform(0.15, 0.85) * height, rng.uniform(0.15, 0.85) * width])
    for _ in range(2):
        cut = min(WINDOW / SHORT_SIDE * min(height, width) * rng.uniform(0.65, 1.25), min(height, width))
        corner = centre - cut / 2 + rng.uniform(-0.3, 0.3, 2) * cut
        top, left = (np.clip(c, 0, whole - cut) for c, whole in zip(corner, (height, width), strict=True))
        top, left, cut = int(top), int(left), int(cut)
        view = cv2.resize(image[top : top + cut, left : left + cut], (WINDOW, WINDOW), interpolation=cv2.INTER_AREA)
        mirror = rng.random() < 0.5
        views.append(_look(view[:, ::-1] if mirror else view, rng))
        boxes.append((top, left, cut))
        mirrored.append(mirror)
    n = WINDOW // PATCH
    at = (np.arange(n) + 0.5) / n
    x = np.tile(1 - at if mirrored[0] else at, (n, 1))
    y = np.tile(at[:, None], (1, n))
    (t0, l0, c0), (t1, l1, c1) = boxes
    y, x = (t0 + y * c0 - t1) / c1, (l0 + x * c0 - l1) / c1
    x = 1 - x if mirrored[1] else x
    return np.stack(views), (np.stack([x, y], axis=-1) * 2 - 1).astype(np.float32)


# --- model -------------------------------------------------------------------


def tokens_of(model: VisionTransformer, pixels: Tensor, places: Tensor) -> Tensor:
    """Compute the tokens after the final norm, B x (1 + patches) x width, for patches at `places` of the grid."""
    x = model.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    first = model.pos_embed[:, :1].expand(len(x), -1, -1)
    x = x + torch.cat([first, model.pos_embed[0, 1:][places]], dim=1)
    return model.norm(model.blocks(x))


class Head(nn.Module):
    """Project tokens and compare them with the prototypes: ... x width to ... x prototypes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, PROJECTED))
        self.prototypes = nn.Linear(PROJECTED, PROTOTYPES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.project(x), dim=-1), F.normalize(self.prototypes.weight, dim=-1))


@torch.no_grad()
def sinkhorn(scores: Tensor, sharpness: float = 20.0, rounds: int = 3) -> Tensor:
    """Assign N patches evenly to K prototypes: N x K, rows sum to 1."""
    q = torch.exp(sharpness * (scores.float() - scores.max()))
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


# --- judging -----------------------------------------------------------------


def _auc(score: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    order = np.argsort(score)
    rank = np.empty(len(score))
    rank[order] = np.arange(1, len(score) + 1)
    positive = int(same.sum())
    return float((rank[same].sum() - positive * (positive + 1) / 2) / (positive * (len(score) - positive)))


@torch.no_grad()
def judge(path: Path, scenes: int = 40) -> dict[str, float]:
    """Compute the area under the ROC curve for same-class pairs of patches within development windows."""
    from itaclip.core.clip import load_clip
    from itaclip.core.clip.open_clip_modules import as_open_clip

    with safe_open(path, "pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
    model = VisionTransformer(**architecture).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    clip = as_open_clip(load_clip("demo"))
    found: dict[str, list[float]] = {}
    kept: dict[str, Tensor] = {}
    last = model.blocks[-1].attn
    hook = last.qkv.register_forward_hook(lambda _m, _i, out: kept.update(qkv=out))
    for number in range(scenes):
        image, labels = development_window(500 + number, number, GRID * PATCH)
        cells = labels.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
        major = np.array([np.bincount(c).argmax() for c in cells])
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None]
        tokens = model.forward_features((pixels / 255 - MEAN) / STD)[0, 1:]
        q, k, _ = kept["qkv"][0, 1:].chunk(3, dim=-1)
        seen: list[Tensor] = []
        clip_hook = clip.visual.transformer.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        clip.encode_image(normalised(pixels))
        clip_hook.remove()
        out = seen[0]
        clip_tokens = (out[0] if out.shape[0] == 1 else out[:, 0])[1:]
        clip_tokens = clip.visual.ln_post(clip_tokens) @ clip.visual.proj
        color = F.avg_pool2d(pixels / 255, PATCH)[0].flatten(1).T
        rows, columns = np.triu_indices(len(major), 1)
        same = major[rows] == major[columns]
        if same.all():
            continue
        features = {"tokens": tokens, "q+k of the last block": q + k, "CLIP's tokens": clip_tokens}
        for name, feature in features.items():
            unit = F.normalize(feature.float(), dim=-1)
            found.setdefault(name, []).append(_auc((unit @ unit.T).numpy()[rows, columns], same))
        found.setdefault("mean colour", []).append(_auc((-torch.cdist(color, color)).numpy()[rows, columns], same))
    hook.remove()
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


# --- training ----------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="folder written by tools/draw_demo_pool.py")
    parser.add_argument("--judge", type=Path, help="only evaluate this file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint next to the output")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    if args.judge:
        args.out.write_text(json.dumps({"area under the ROC curve": judge(args.judge), "scenes": 40}, indent=2) + "\n")
        return
    torch.manual_seed(args.seed)
    model, head = VisionTransformer(**ARCHITECTURE), Head(ARCHITECTURE["embed_dim"])
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.04)
    parts = {"model": model, "head": head, "optimizer": optimizer}
    training = Training(args, parts, parameters, warm_up=80)
    pictures = load_pictures(args.pool)
    side = WINDOW // PATCH
    for step in training:
        rng = np.random.default_rng([args.seed, 6, step])
        pairs = [two_windows(pictures[rng.integers(len(pictures))], rng) for _ in range(args.batch)]
        pixels = torch.from_numpy(np.stack([p[0] for p in pairs], axis=1)).flatten(0, 1).permute(0, 3, 1, 2)
        grid = torch.from_numpy(np.stack([p[1] for p in pairs]))
        with torch.autocast("cpu", torch.bfloat16):
            tokens = tokens_of(model, (pixels - MEAN) / STD, random_places(len(pixels), GRID, side))[:, 1:].float()
        one, other = tokens.chunk(2)
        other = other.transpose(1, 2).unflatten(2, (side, side))
        other = F.grid_sample(other, grid, align_corners=False, padding_mode="border").flatten(2).transpose(1, 2)
        both = (grid.abs() < 1).all(-1).flatten(1)  # patches that are also in the second window
        scores, others = head(one[both]), head(other[both])
        loss = -0.5 * (
            (sinkhorn(others) * F.log_softmax(scores / 0.1, -1)).sum(-1).mean()
            + (sinkhorn(scores) * F.log_softmax(others / 0.1, -1)).sum(-1).mean()
        )
        if training.update(loss):
            print(training.report(), flush=True)
            metadata = {"architecture": json.dumps(ARCHITECTURE), "training": json.dumps(training.note())}
            save_weights(model, args.out, metadata)


if __name__ == "__main__":
    main()
