"""Train the bundled demo CLIP: a miniature ViT with contrastive learning from captions alone.

    python tools/draw_demo_pool.py --out data/demo_pool
    python tools/train_demo_clip.py --pool data/demo_pool --out demo_clip.safetensors

Takes an hour on one core. Checkpoints lie next to the output; --resume continues from the last one.
`--init` starts from another file with the same layout instead of random weights.

Windows of random scale are cut from the pool's scenes around things of every class. Captions
describe the content of each window ("a red car and a tree"), and that of each of the three by three
parts of a whole window. No mask and no scene of the held-out data set enters the losses. The pool
stores which thing every pixel belongs to; this only determines what the caption of a window or a
part mentions.

The losses contrast, all at caption level:

* the class token with the caption of its window, as in CLIP (Radford et al., ICML 2021);
* the mean of the unit patch tokens with the same captions;
* patch tokens with one short caption per class ("a photo of a car"), and per class and colour
  ("a red car"), each true or false of the window or part, through a soft maximum over its patches.
  The mean is indifferent to attention that mixes regions; the maximum, as in FILIP (Yao et al.,
  ICLR 2022), rewards patches that do not mix. Sub-captions as extra positives follow DreamLIP
  (Zheng et al., ECCV 2024), the sigmoid loss follows SigLIP (Zhai et al., ICCV 2023).

In CLIP, nothing trains how patches attend to each other in the last block: only the class token is
used, and it pools the patches' values. Here, patches use the same path: each takes its own value
from the last attention, without the feed-forward network, and half the time without the residual.
By construction, this CLIP therefore has the property behind the training-free methods: the values
of the last block encode what a patch shows, while its query-key attention and its feed-forward
network serve the class token.

With `--whole` below 1, the first steps use small windows (6 x 6 patches) at random positions of the
positional grid, which is several times cheaper and keeps neighbouring patches together; the other
steps use the whole 14 x 14 patches.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip import get_tokenizer
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor, nn

from itaclip.common.demo.world import CLASSES, KINDS
from itaclip.research.demo.captions import caption, colored_kinds, phrase, short
from itaclip.research.demo.training import (
    SHORT_SIDE,
    Training,
    development_window,
    normalised,
    random_places,
    save_weights,
)

SIDE, PATCH, WIDTH, LAYERS = 112, 8, 128, 12
EMBED, TEXT_WIDTH, TEXT_LAYERS = 64, 64, 3
SHARPNESS = 10.0  # of the soft maximum: 0 is the mean over patches, infinity the maximum
COLORED = colored_kinds()
_PAIR = {pair: i for i, pair in enumerate(COLORED)}
PARTS = ((0, 5, 10, 14), (0, 5, 9, 14), (0, 4, 9, 14))  # of whole windows, in patches: three by three
# Windows are centred on things of every class equally often, but twice as often on small things of varied shape.
TWICE = ("car", "bird", "cat", "dog", "person", "parasol", "balloon")
CENTRES = [*range(CLASSES), *(i for i, kind in enumerate(KINDS) if kind.names[0] in TWICE)]
POINTS = 6  # stored per thing: possible centres of windows
GREY = 1 / 5  # share of windows converted to grey
SMALLEST, MENTIONED = 0.006, 0.03  # share of a window: absent below the first, present above the second


# --- data --------------------------------------------------------------------


class Pool:
    """Scenes drawn by tools/draw_demo_pool.py, and windows cut from them."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        self.images: list[NDArray[np.uint8]] = []
        self.owner: list[NDArray[np.uint8]] = []
        self.things: list[list[tuple[int, str | None]]] = []
        self.night: list[bool] = []
        places: list[list[tuple[int, int, int]]] = [[] for _ in range(CLASSES)]
        for path in sorted(folder.glob("shard_*.npz")):
            with np.load(path) as shard:
                images, owner = shard["images"], shard["owner"]
                for i in range(len(images)):
                    self.things.append([(c, w) for c, w in json.loads(str(shard["things"][i]))])
                    self.night.append(bool(shard["night"][i]))
                    self._index(len(self.images), owner[i], places, rng)
                    self.images.append(images[i])
                    self.owner.append(owner[i])
        self.places = [np.array(p) for p in places]

    def _index(
        self, number: int, owner: NDArray[np.uint8], places: list[list[tuple[int, int, int]]], rng: np.random.Generator
    ) -> None:
        for thing in np.flatnonzero(np.bincount(owner.ravel()) > 250):
            if thing == 0:  # no thing: posts, rims
                continue
            inside = np.flatnonzero(owner == thing)
            for at in rng.choice(inside, POINTS):
                places[self.things[number][thing][0]].append((number, *divmod(int(at), owner.shape[1])))

    def window(
        self, class_id: int, side: int, edges: Sequence[int], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[tuple[int, str | None]], NDArray[np.float32], NDArray[np.float32], bool]:
        """Cut a window around a thing of a class.

        Args:
            class_id: class of the thing near the centre.
            side: side of the window in pixels.
            edges: borders of its parts in patches, the same in both directions.
            rng: the only source of randomness.

        Returns:
            side x side x 3 uint8; (class id, colour word) of its content; ground truth of every class in
            every part, P x C, and of every coloured class (1 present, 0 absent, -1 unclear); whether it is
            night.
        """
        number, y, x = self.places[class_id][rng.integers(len(self.places[class_id]))]
        image, owner, things = self.images[number], self.owner[number], self.things[number]
        height, width = owner.shape
        cut = int(min(side / SHORT_SIDE * min(height, width) / rng.uniform(0.8, 1.35), height, width))
        top, left = (
            int(np.clip(at - cut * rng.uniform(0.2, 0.8), 0, whole - cut)) for at, whole in ((y, height), (x, width))
        )
        mirror = -1 if rng.random() < 0.5 else 1
        image = image[top : top + cut, left : left + cut][:, ::mirror]
        owner = owner[top : top + cut, left : left + cut][:, ::mirror]
        kinds = np.array([c for c, _ in things])
        pairs = np.array([_PAIR[c, word] if word else -1 for c, word in things])
        lines = [round(edge * cut * PATCH / side) for edge in edges]
        classes, colored = [], []
        for upper, lower in itertools.pairwise(lines):
            for start, end in itertools.pairwise(lines):
                part = owner[upper:lower, start:end]
                shares = np.bincount(part.ravel(), minlength=len(things)) / part.size
                classes.append(np.bincount(kinds, shares, minlength=CLASSES))
                colored.append(np.bincount(pairs + 1, shares, minlength=len(COLORED) + 1)[1:])
        shares = np.bincount(owner.ravel(), minlength=len(things)) / owner.size
        present = {tuple(things[t]): None for t in np.flatnonzero(shares >= MENTIONED)}
        shown = list(present) or [things[int(shares.argmax())]]
        smallest, mentioned = (share * (1 if len(lines) == 2 else 2) for share in (SMALLEST, MENTIONED))
        truths = [
            np.where(t >= mentioned, 1, np.where(t >= smallest, -1, 0)).astype(np.float32)
            for t in (np.stack(classes), np.stack(colored))
        ]
        pixels = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
        if rng.random() < GREY:  # so that colour alone does not decide; the captions then mention no colours
            pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            shown, truths[1] = [(c, None) for c, _ in shown], np.full_like(truths[1], -1)
        return _augment(pixels, rng), shown, truths[0], truths[1], self.night[number]

    def batch(
        self, size: int, side: int, edges: Sequence[int], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Make images B x 3 x side x side uint8, ground truth B x P x classes and B x P x coloured classes,
        captions."""
        images, classes, colored, captions = [], [], [], []
        order = np.concatenate([rng.permutation(CENTRES) for _ in range(size // len(CENTRES) + 1)])[:size]
        for class_id in order:
            image, shown, c, w, night = self.window(int(class_id), side, edges, rng)
            images.append(image.transpose(2, 0, 1))
            classes.append(c)
            colored.append(w)
            captions.append(caption(shown, rng, night))
        stacked = [torch.from_numpy(np.stack(arrays)) for arrays in (images, classes, colored)]
        return stacked[0], stacked[1], stacked[2], captions


def _augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur one window in five; change the brightness of one in two."""
    if rng.random() < 1 / 5:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.6, 2.5))
    if rng.random() < 1 / 2:
        image = np.clip(image * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
    return image


# --- model -------------------------------------------------------------------


def build() -> CLIP:
    """Build a miniature CLIP in OpenAI's layout (QuickGELU, heads of 64 channels)."""
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


def encode_image(model: CLIP, pixels: Tensor, places: Tensor, drop_residual: float = 0.0) -> Tensor:
    """Encode patches at `places` of the grid to unit tokens B x (1 + patches) x E, class token first.

    The class token is computed as in CLIP. Each patch takes its own value from the last attention,
    without the feed-forward network, which is how the class token uses patches.
    """
    visual = model.visual
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = x + visual.positional_embedding[1:][places]
    first = visual.class_embedding + visual.positional_embedding[0]
    x = visual.ln_pre(torch.cat([first.expand(len(x), 1, -1), x], dim=1))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = x + _attend(block.attn, block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
    normed, attention = last.ln_1(x), last.attn
    q, k, v = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k, heads = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q[:, :1], k, v))
    pooled = F.scaled_dot_product_attention(q, k, heads).transpose(1, 2).flatten(2)
    update = attention.out_proj(torch.cat([pooled, v[:, 1:]], dim=1))
    kept = torch.rand(len(x), 1, 1, device=x.device) >= drop_residual
    whole = x[:, :1] + update[:, :1]
    whole = whole + last.mlp(last.ln_2(whole))
    x = torch.cat([whole, x[:, 1:] * kept + update[:, 1:]], dim=1)
    return F.normalize((visual.ln_post(x) @ visual.proj).float(), dim=-1)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Encode texts to unit features T x E; tokens after the last end-of-text token are dropped."""
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
    """Compute CLIP's symmetric cross entropy; a caption that is true of several windows counts for all of them."""
    logits = scale * image @ text.T
    forward = -(F.log_softmax(logits, 1) * (true / true.sum(1, keepdim=True))).sum(1).mean()
    backward = -(F.log_softmax(logits, 0) * (true / true.sum(0, keepdim=True))).sum(0).mean()
    return 0.5 * (forward + backward)


def sigmoid_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Compute the sigmoid loss of short captions, each true (1) or false (0) of a window; -1 is ignored."""
    loss = F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0), reduction="none")
    known = (truth >= 0).float()
    return (loss * known).sum() / known.sum()


class Contrast(nn.Module):
    """The caption losses with their learned temperatures."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self,
        model: CLIP,
        tokens: Tensor,
        full: Tensor,
        single: Tensor,
        truth: Tensor,
        colored: Tensor,
        edges: Sequence[int],
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            model: the model, for its temperature.
            tokens: B x (1 + patches) x E unit tokens.
            full: B x E features of the windows' captions.
            single: (C + K) x E features of captions of single classes and single coloured classes.
            truth: B x P x C in {-1, 0, 1}, for every part of a window.
            colored: B x P x K, likewise.
            edges: borders of the parts in patches.
        """
        present = (truth > 0).any(1).float()
        holds = ((1 - present) @ present.T < 0.5).float()  # [i, j]: caption j is true of window i
        mean = F.normalize(tokens[:, 1:].mean(1), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100.0)
        cosines = (tokens[:, 1:] @ single.T).unflatten(1, (edges[-1], edges[-1]))  # B x rows x columns x (C + K)
        parts = []
        for upper, lower in itertools.pairwise(edges):
            for start, end in itertools.pairwise(edges):
                part = SHARPNESS * cosines[:, upper:lower, start:end].flatten(1, 2)
                parts.append((torch.logsumexp(part, 1) - math.log(part.shape[1])) / SHARPNESS)
        logits = self.scale.exp() * torch.stack(parts, 1) + self.bias
        return (
            0.3 * caption_contrast(tokens[:, 0], full, holds, scale)
            + 0.3 * caption_contrast(mean, full, holds, scale)
            + 6.0 * sigmoid_loss(logits[..., :CLASSES], truth)
            + 2.0 * sigmoid_loss(logits[..., CLASSES:], colored)
        )


# --- training ----------------------------------------------------------------


class Development:
    """Monitors training with the mIoU of patches, computed as in training, on fixed development windows."""

    def __init__(self, scenes: int = 30) -> None:
        self.pixels, self.labels = [], []
        for number in range(scenes):
            image, labels = development_window(number, number, SIDE)
            self.pixels.append(torch.from_numpy(image.transpose(2, 0, 1).copy()))
            self.labels.append(labels)

    @torch.no_grad()
    def __call__(self, model: CLIP, device: torch.device) -> dict[str, float]:
        tokenizer = get_tokenizer("ViT-B-16")
        text = encode_text(model, tokenizer([f"a photo of a {kind.names[0]}." for kind in KINDS]).to(device))
        hits = np.zeros((CLASSES, CLASSES))
        for pixels, truth in zip(self.pixels, self.labels, strict=True):
            window = normalised(pixels)[None].to(device)
            tokens = encode_image(model, window, random_places(1, SIDE // PATCH, SIDE // PATCH, device))[0, 1:]
            score = (tokens @ text.T).T.reshape(1, CLASSES, SIDE // PATCH, SIDE // PATCH)
            labels = F.interpolate(score, size=(SIDE, SIDE), mode="bilinear").argmax(1)[0].cpu().numpy()
            np.add.at(hits, (truth.ravel(), labels.ravel()), 1)
        union = hits.sum(0) + hits.sum(1) - hits.diagonal()
        return {
            "miou": float(np.nanmean(hits.diagonal() / np.where(union > 0, union, np.nan)) * 100),
            "accuracy": float(hits.diagonal().sum() / hits.sum() * 100),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="folder written by tools/draw_demo_pool.py")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--init", type=Path, help="safetensors file to start from")
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint next to the output")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--whole-batch", type=int, default=32)
    parser.add_argument("--small", type=int, default=48, help="side in pixels of the small windows")
    parser.add_argument("--whole", type=float, default=0.66, help="share of steps, at the end, with whole windows")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=100, help="steps between reports and checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    device = torch.device(args.device)
    model, contrast = build().to(device), Contrast().to(device)
    if args.init:
        model.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
    tokenizer = get_tokenizer("ViT-B-16")
    named = [*model.named_parameters(), *contrast.named_parameters()]
    decayed = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
    plain = [p for n, p in named if not (p.ndim >= 2 and "embedding" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )

    parts = {"model": model, "contrast": contrast, "optimizer": optimizer}
    training = Training(args, parts, model.parameters(), warm_up=100)
    pool, development = Pool(args.pool, args.seed), Development()
    small_steps = round(args.steps * (1 - args.whole))
    for step in training:
        rng = np.random.default_rng([args.seed, 5, step])
        small = step <= small_steps
        side = args.small if small else SIDE
        edges = (0, side // PATCH) if small else PARTS[rng.integers(len(PARTS))]
        images, truth, colored, captions = pool.batch(args.batch if small else args.whole_batch, side, edges, rng)
        single = [caption([(c, None)], rng) for c in range(CLASSES)]
        single += [short(phrase(c, word, rng, article=False), rng) for c, word in COLORED]
        places = random_places(len(images), SIDE // PATCH, side // PATCH, device)
        pixels = normalised(images.to(device))
        with torch.autocast(device.type, torch.bfloat16):
            tokens = encode_image(model, pixels, places, drop_residual=0.5)
            text = encode_text(model, tokenizer([*captions, *single]).to(device))
        full, alone = text.split([len(captions), len(single)])
        loss = contrast(model, tokens, full, alone, truth.to(device), colored.to(device), edges)
        if training.update(loss):
            model.eval()
            score = development(model, device)
            model.train()
            print(f"{training.report()}  patch mIoU {score['miou']:.1f}  accuracy {score['accuracy']:.1f}", flush=True)
            save_weights(model, args.out, {"quick_gelu": "true", "training": json.dumps(training.note())})


if __name__ == "__main__":
    main()
