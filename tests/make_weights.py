"""Create deterministic random CLIP weights in OpenAI's own layout.

The real ViT-B/16 file cannot be fetched on every machine, so reference outputs
are recorded on weights that anyone can regenerate bit for bit: every tensor is
drawn from a NumPy PCG64 stream seeded by its own name, and rounded to float16
(the precision that OpenAI's file is stored in). Scales are chosen so that
attention maps are neither uniform nor one-hot: a wrong layer, a dropped
residual or a missing softmax changes the output visibly.

    python make_weights.py tiny  tiny.pt            # 12 layers, width 128, seconds
    python make_weights.py vit-b-16  ViT-B-16.pt    # the real geometry, 300 MB
    python make_weights.py tiny  tiny.pt --jit      # as a TorchScript archive
"""

from __future__ import annotations

import argparse
import math
import zlib

import numpy as np
import torch
from torch import nn

GEOMETRY = {
    # heads are width // 64, in OpenAI's convention
    "tiny": dict(embed_dim=64, vision_width=128, vision_layers=12, patch=16, grid=14, text_width=64, text_layers=2),
    "vit-b-16": dict(
        embed_dim=512, vision_width=768, vision_layers=12, patch=16, grid=14, text_width=512, text_layers=12
    ),
}
VOCAB, CONTEXT = 49408, 77


def _shapes(g: dict) -> dict[str, tuple[tuple[int, ...], float, float]]:
    """Name -> (shape, std, mean)."""
    out: dict[str, tuple[tuple[int, ...], float, float]] = {}

    def blocks(prefix: str, width: int, layers: int) -> None:
        for i in range(layers):
            b = f"{prefix}transformer.resblocks.{i}."
            out[b + "attn.in_proj_weight"] = ((3 * width, width), math.sqrt(0.6 / width), 0.0)
            out[b + "attn.in_proj_bias"] = ((3 * width,), 0.1, 0.0)
            out[b + "attn.out_proj.weight"] = ((width, width), 1 / math.sqrt(width), 0.0)
            out[b + "attn.out_proj.bias"] = ((width,), 0.05, 0.0)
            out[b + "ln_1.weight"] = ((width,), 0.1, 1.0)
            out[b + "ln_1.bias"] = ((width,), 0.1, 0.0)
            out[b + "mlp.c_fc.weight"] = ((4 * width, width), 1 / math.sqrt(width), 0.0)
            out[b + "mlp.c_fc.bias"] = ((4 * width,), 0.1, 0.0)
            out[b + "mlp.c_proj.weight"] = ((width, 4 * width), 0.5 / math.sqrt(4 * width), 0.0)
            out[b + "mlp.c_proj.bias"] = ((width,), 0.05, 0.0)
            out[b + "ln_2.weight"] = ((width,), 0.1, 1.0)
            out[b + "ln_2.bias"] = ((width,), 0.1, 0.0)

    w, t, e = g["vision_width"], g["text_width"], g["embed_dim"]
    out["visual.class_embedding"] = ((w,), 0.5, 0.0)
    out["visual.positional_embedding"] = ((g["grid"] ** 2 + 1, w), 0.3, 0.0)
    out["visual.proj"] = ((w, e), 1 / math.sqrt(w), 0.0)
    out["visual.conv1.weight"] = ((w, 3, g["patch"], g["patch"]), 0.03, 0.0)
    for ln in ("ln_pre", "ln_post"):
        out[f"visual.{ln}.weight"] = ((w,), 0.1, 1.0)
        out[f"visual.{ln}.bias"] = ((w,), 0.1, 0.0)
    blocks("visual.", w, g["vision_layers"])
    blocks("", t, g["text_layers"])
    out["positional_embedding"] = ((CONTEXT, t), 0.2, 0.0)
    out["token_embedding.weight"] = ((VOCAB, t), 0.5, 0.0)
    out["text_projection"] = ((t, e), 1 / math.sqrt(t), 0.0)
    out["ln_final.weight"] = ((t,), 0.1, 1.0)
    out["ln_final.bias"] = ((t,), 0.1, 0.0)
    return out


def make_state_dict(name: str = "tiny", seed: int = 0) -> dict[str, torch.Tensor]:
    """State dict with OpenAI CLIP's names and shapes, float32 rounded to float16 precision."""
    state = {}
    for key, (shape, std, mean) in _shapes(GEOMETRY[name]).items():
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        value = rng.standard_normal(shape, dtype=np.float32) * std + mean
        state[key] = torch.from_numpy(value.astype(np.float16).astype(np.float32))
    state["logit_scale"] = torch.tensor(math.log(100.0))
    return state


class _Node(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def as_torchscript(state: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    """The same tensors inside a TorchScript archive, as OpenAI ships them."""
    root = _Node()
    extra = {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(CONTEXT),
        "vocab_size": torch.tensor(VOCAB),
    }
    for key, value in {**state, **extra}.items():
        node, *rest = root, *key.split(".")
        for part in rest[:-1]:
            if not hasattr(node, part):
                node.add_module(part, _Node())
            node = getattr(node, part)
        if key in extra:
            node.register_buffer(rest[-1], value)
        else:
            node.register_parameter(rest[-1], nn.Parameter(value.half(), requires_grad=False))
    return torch.jit.script(root)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("geometry", choices=sorted(GEOMETRY))
    ap.add_argument("out")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--jit", action="store_true", help="write a TorchScript archive")
    a = ap.parse_args()
    sd = make_state_dict(a.geometry, a.seed)
    if a.jit:
        as_torchscript(sd).save(a.out)
    else:
        torch.save(sd, a.out)
    print(f"{a.out}: {len(sd)} tensors, {sum(v.numel() for v in sd.values()) / 1e6:.1f} M parameters")
