"""Train the bundled demo CLIP: a miniature ViT, by contrast on captions alone.

    python tools/train_demo_clip.py --out demo_clip.safetensors --compile

Takes one to two hours on two cores, minutes on a GPU. The file is written at every
report, so a run may be ended early; its metadata tell the step.

The scenes of `itaclip.demo` are drawn while training runs; a caption names what a
scene shows. No mask, and no scene of the held-out demo set, reaches this program.

What is contrasted, all of it at caption level:

* class token with the caption of its scene, as in CLIP (Radford et al., ICML 2021);
* mean of the unit patch tokens with the same captions;
* patch tokens with one short caption per class, each true or false of the scene, by a
  soft maximum over patches. The mean does not care whether attention mixes regions;
  the maximum, as in FILIP (Yao et al., ICLR 2022), rewards patches that do not.
  Sub-captions as extra positives follow DreamLIP (Zheng et al., ECCV 2024), the
  sigmoid loss follows SigLIP (Zhai et al., ICCV 2023).

Most steps see small scenes (8 x 8 patches) at random places of the positional grid,
which is several times cheaper than whole ones and keeps neighbouring patches together;
the last steps see the whole 14 x 14.
The feed-forward network of the last block is skipped at random (stochastic depth,
Huang et al., ECCV 2016), so that what the last attention writes is readable by itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip import get_tokenizer
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from itaclip.demo.captions import caption
from itaclip.demo.scenes import draw_scene
from itaclip.demo.textures import TEXTURES, draw

SIDE, PATCH, WIDTH, LAYERS = 112, 8, 128, 12
EMBED, TEXT_WIDTH, TEXT_LAYERS = 64, 64, 3
MEAN = torch.tensor([122.771, 116.746, 104.094]).view(3, 1, 1)
STD = torch.tensor([68.501, 66.632, 70.323]).view(3, 1, 1)
CLASSES = len(TEXTURES)
SHARPNESS = 10.0  # of the soft maximum: 0 is the mean over patches, infinity the maximum

Batch = tuple[Tensor, Tensor, list[str]]


# --- data --------------------------------------------------------------------


class TextureBank:
    """Textures drawn once and cut at random: composing a scene then takes about 2 ms."""

    def __init__(self, per_class: int, side: int, rng: np.random.Generator) -> None:
        self.tiles = np.stack([[draw(c, (side, side), rng) for _ in range(per_class)] for c in range(CLASSES)])

    def __call__(self, class_id: int, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
        tile = self.tiles[class_id, rng.integers(self.tiles.shape[1])]
        top, left = (rng.integers(have - want + 1) for have, want in zip(tile.shape, shape, strict=False))
        cut = tile[top : top + shape[0], left : left + shape[1]]
        return cut[:, :: -1 if rng.random() < 0.5 else 1]


class SceneStream(IterableDataset[Batch]):
    """Endless batches of scenes: images B x 3 x H x W uint8, truth B x classes, captions."""

    def __init__(self, batch: int, seed: int, side: int, per_class: int) -> None:
        self.batch, self.seed, self.side, self.per_class = batch, seed, side, per_class

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, self.side, info.id if info else 0])
        most = 6 if self.side == SIDE else 3
        bank = TextureBank(self.per_class, 200, rng)
        while True:
            images, truth, captions = [], np.zeros((self.batch, CLASSES), np.float32), []
            for i in range(self.batch):
                scene = draw_scene((self.side, self.side), rng, bank, most=most)
                images.append(_augment(scene.image, rng))
                present = scene.classes()
                truth[i, present] = 1
                captions.append(caption(present, rng))
            yield torch.from_numpy(np.stack(images)), torch.from_numpy(truth), captions


def _augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey one scene in eight, blur one in eight: colour alone must not decide."""
    if rng.random() < 1 / 8:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 1 / 8:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.6, 2.5))
    return np.ascontiguousarray(image.transpose(2, 0, 1))


# --- model -------------------------------------------------------------------


def build() -> CLIP:
    """A CLIP of OpenAI's layout (QuickGELU, heads of 64) in miniature."""
    model = CLIP(
        embed_dim=EMBED,
        vision_cfg=dict(layers=LAYERS, width=WIDTH, patch_size=PATCH, image_size=SIDE),
        text_cfg=dict(width=TEXT_WIDTH, heads=1, layers=TEXT_LAYERS),
        quick_gelu=True,
    )
    nn.init.normal_(model.token_embedding.weight, std=0.05)
    return model


def _attend(attention: nn.MultiheadAttention, x: Tensor, causal: bool = False) -> Tensor:
    batch, tokens, width = x.shape
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.view(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return attention.out_proj(out.transpose(1, 2).reshape(batch, tokens, width))


def random_places(images: int, side: int, device: torch.device) -> Tensor:
    """For every image the numbers of a random block of patches in the whole grid: B x patches."""
    whole, block = SIDE // PATCH, side // PATCH
    top, left = torch.randint(whole - block + 1, (2, images, 1, 1), device=device)
    steps = torch.arange(block, device=device)
    return ((top + steps[:, None]) * whole + left + steps).flatten(1)


def encode_image(model: CLIP, pixels: Tensor, places: Tensor, skip_last_mlp: float = 0.0) -> Tensor:
    """Unit tokens B x (1 + patches) x E, class token first, for patches at `places` of the grid."""
    visual = model.visual
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = x + visual.positional_embedding[1:][places]
    first = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([first.expand(len(x), 1, -1), x], dim=1))
    blocks = visual.transformer.resblocks
    for i, block in enumerate(blocks):
        x = x + _attend(block.attn, block.ln_1(x))
        update = block.mlp(block.ln_2(x))
        if i == len(blocks) - 1 and skip_last_mlp:
            kept = torch.rand(len(x), 1, 1, device=x.device) >= skip_last_mlp
            update = update * kept
        x = x + update
    return F.normalize((visual.ln_post(x) @ visual.proj).float(), dim=-1)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Unit text features T x E; tokens after the last end-of-text are cut off."""
    end = tokens.argmax(dim=1)
    tokens = tokens[:, : int(end.max()) + 1]
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    for block in model.transformer.resblocks:
        x = x + _attend(block.attn, block.ln_1(x), causal=True)
        x = x + block.mlp(block.ln_2(x))
    x = model.ln_final(x[torch.arange(len(x)), end])
    return F.normalize((x @ model.text_projection).float(), dim=-1)


# --- losses ------------------------------------------------------------------


def caption_contrast(image: Tensor, text: Tensor, true: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy; a caption true of several scenes is shared by them."""
    logits = scale * image @ text.T
    forward = -(F.log_softmax(logits, 1) * (true / true.sum(1, keepdim=True))).sum(1).mean()
    backward = -(F.log_softmax(logits, 0) * (true / true.sum(0, keepdim=True))).sum(0).mean()
    return 0.5 * (forward + backward)


class Contrast(nn.Module):
    """The three caption losses, with their learned temperatures."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, model: CLIP, tokens: Tensor, full: Tensor, short: Tensor, truth: Tensor) -> Tensor:
        """tokens B x N x E; full B x E; short C x E; truth B x C in {0, 1}."""
        holds = ((1 - truth) @ truth.T < 0.5).float()  # [i, j]: caption j is true of scene i
        mean = F.normalize(tokens[:, 1:].mean(1), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100.0)
        cosines = tokens[:, 1:] @ short.T  # B x patches x C
        softest = (torch.logsumexp(SHARPNESS * cosines, 1) - math.log(cosines.shape[1])) / SHARPNESS
        logits = self.scale.exp() * softest + self.bias
        return (
            0.3 * caption_contrast(tokens[:, 0], full, holds, scale)
            + 0.3 * caption_contrast(mean, full, holds, scale)
            + 6.0 * F.binary_cross_entropy_with_logits(logits, truth)
        )


# --- training ----------------------------------------------------------------


@torch.no_grad()
def dense_miou(model: CLIP, device: torch.device, scenes: int = 24) -> dict[str, float]:
    """mIoU of plain dense CLIP on freshly drawn development scenes, one crop each."""
    rng = np.random.default_rng(999)
    tokenizer = get_tokenizer("ViT-B-16")
    text = encode_text(model, tokenizer([f"a photo of {t.names[0]}." for t in TEXTURES]).to(device))
    hits = np.zeros((CLASSES, CLASSES))
    for _ in range(scenes):
        scene = draw_scene((SIDE, SIDE), rng)
        pixels = torch.from_numpy(scene.image.transpose(2, 0, 1)).float()
        normalised = ((pixels - MEAN) / STD)[None].to(device)
        tokens = encode_image(model, normalised, random_places(1, SIDE, device))[0, 1:]
        score = (tokens @ text.T).T.reshape(1, CLASSES, SIDE // PATCH, SIDE // PATCH)
        labels = F.interpolate(score, size=(SIDE, SIDE), mode="bilinear").argmax(1)[0].cpu().numpy()
        np.add.at(hits, (scene.labels.ravel(), labels.ravel()), 1)
    union = hits.sum(0) + hits.sum(1) - hits.diagonal()
    return {"miou": float(np.nanmean(hits.diagonal() / np.where(union > 0, union, np.nan)) * 100),
            "accuracy": float(hits.diagonal().sum() / hits.sum() * 100)}  # fmt: skip


def save(model: CLIP, path: Path, note: dict[str, object]) -> None:
    """Write float16 safetensors under OpenAI's parameter names, whole or not at all."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"quick_gelu": "true", "recipe": json.dumps(note)})
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--small", type=int, default=64, help="side in pixels of the small scenes")
    parser.add_argument("--whole", type=float, default=0.12, help="last share of steps that see every patch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--per-class", type=int, default=60, help="textures drawn per class and worker")
    parser.add_argument("--compile", action="store_true", help="torch.compile the image tower")
    parser.add_argument("--report", type=int, default=200, help="steps between reports")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model, contrast = build().to(device), Contrast().to(device)
    tokenizer = get_tokenizer("ViT-B-16")
    named = [*model.named_parameters(), *contrast.named_parameters()]
    decayed = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
    plain = [p for n, p in named if not (p.ndim >= 2 and "embedding" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98),
    )  # fmt: skip

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 300)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    small_steps = round(args.steps * (1 - args.whole))

    def batches() -> Iterator[Batch]:
        for side, count in ((args.small, small_steps), (SIDE, args.steps - small_steps)):
            stream = SceneStream(args.batch, args.seed, side, args.per_class)
            loader = DataLoader(stream, batch_size=None, num_workers=args.workers, prefetch_factor=4)
            yield from itertools.islice(loader, count)

    short_rng = np.random.default_rng([args.seed, 7])
    image_tower = torch.compile(encode_image) if args.compile else encode_image
    began, running = time.time(), 0.0
    for step, (images, truth, captions) in enumerate(batches(), 1):
        images, truth = images.to(device), truth.to(device)
        words = [*captions, *(caption([c], short_rng) for c in range(CLASSES))]
        places = random_places(len(images), images.shape[-1], device)
        pixels = (images.float() - MEAN.to(device)) / STD.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            tokens = image_tower(model, pixels, places, skip_last_mlp=0.5)
            text = encode_text(model, tokenizer(words).to(device))
        loss = contrast(model, tokens, text[: len(captions)], text[len(captions) :], truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % args.report == 0 or step == args.steps:
            speed = step * args.batch / (time.time() - began)
            model.eval()
            score = dense_miou(model, device)
            model.train()
            print(f"step {step:6d}  loss {running / args.report:.4f}  {speed:6.0f} images/s  "
                  f"dense mIoU {score['miou']:.1f}  accuracy {score['accuracy']:.1f}", flush=True)  # fmt: skip
            running = 0.0
            save(model, args.out, {**{k: str(v) for k, v in vars(args).items()}, "step": step})


if __name__ == "__main__":
    main()
