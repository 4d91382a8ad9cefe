"""CLIP's text tower, batched, with prompts cut after the end-of-text token if that changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.common.progress import report
from itaclip.core.clip.blocks import run_block
from itaclip.core.clip.fingerprint import fingerprint, structure
from itaclip.core.clip.image_text import ImageTextModel, MaskedText
from itaclip.core.clip.openai import CLIP
from itaclip.core.engines import OpenVINOText
from itaclip.core.text.cache import TextCache

_LOG = logging.getLogger(__name__)

# Tokens per pass: large enough to fill the cores, small enough for the caches of a CPU
# (ViT-B/16's activations of 2,048 tokens take 16 MiB).
_TOKENS_PER_PASS = 2048


class TextEncoder(nn.Module):
    """Encode prompts as unit features in CLIP's joint space.

    A tower that does not see what follows the end of a text, because it is causal and reads only
    that position or because padding is masked, runs only up to the longest prompt of a pass
    (ITACLIP, section 2). Any other tower runs as in open_clip, on prompts of full length.

    Args:
        clip: from `itaclip.core.clip.load_clip`; only the text tower is kept.
        cache: stores the results of `itaclip.core.text.bank.ensemble` for this tower.
        engine: "torch", or "openvino" on a CPU, which runs only causal towers.

    Raises:
        ItaclipError: the tokenizer's files are missing, or OpenVINO is not installed.
    """

    def __init__(self, clip: Any, cache: TextCache | None = None, engine: str = "torch") -> None:
        super().__init__()
        self.cache = cache
        self.tower: nn.Module = _causal_tower(clip) or clip.text
        runs = engine == "openvino" and isinstance(self.tower, CausalTower)
        self._engine = OpenVINOText(self.tower) if runs else None
        self._source = clip.tokenizer_source
        self.context_length = self._source.context_length
        self.tokenizer = self._source.load()

    @property
    def device(self) -> torch.device:
        """Device of the tower."""
        return next(self.tower.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Identifier of the weights and the tokenizer, the same on every machine."""
        weights = self._engine.fingerprint if self._engine else fingerprint(self.tower.named_parameters())
        parts = [weights, structure(self.tower), self.tokenizer.vocabulary, *map(str, self._source.options)]
        return " ".join(part for part in parts if part)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode every distinct prompt once.

        Returns:
            len(prompts) x E, float32, unit norm, in the order given.
        """
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(unique)
        if isinstance(self.tower, (CausalTower, MaskedText)):
            ends = self.tower.ends(tokens)
        else:
            ends = torch.full((len(tokens),), tokens.shape[1] - 1)
        self._report_cut(unique, tokens)
        features: list[Tensor] = [torch.empty(0)] * len(unique)
        order = ends.argsort(stable=True).tolist()
        while order:
            # prompts of similar length share a pass; the longest one sets its width
            width = int(ends[order[-1]]) + 1
            count = max(1, _TOKENS_PER_PASS // width)
            part, order = order[-count:], order[:-count]
            encoded = self.encode(tokens[part, :width].to(self.device), ends[part].to(self.device))
            for i, feature in zip(part, F.normalize(encoded.float(), dim=-1), strict=True):
                features[i] = feature
            report("texts", len(unique) - len(order), len(unique))
        place = {prompt: i for i, prompt in enumerate(unique)}
        return torch.stack([features[place[prompt]] for prompt in prompts])

    def encode(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Compute features before normalisation, T x E, as open_clip's ``encode_text`` does.

        Args:
            tokens: T x M token ids; M is the full length unless the tower ignores what follows the end.
            ends: T, positions of the end-of-text tokens; used by causal towers.
        """
        if self._engine is not None:
            return self._engine(tokens, ends)
        return cast(Tensor, self.tower(tokens, ends) if isinstance(self.tower, CausalTower) else self.tower(tokens))

    def release(self) -> None:
        """Free what an engine needs only while it encodes texts."""
        if self._engine is not None:
            self._engine.release()

    def _report_cut(self, prompts: Sequence[str], tokens: Tensor) -> None:
        full = tokens[:, self.context_length - 1] != self.tokenizer.padding
        for i in full.nonzero().flatten().tolist():
            if self.tokenizer.length(prompts[i]) > self.context_length:
                _LOG.warning(
                    "A prompt is longer than CLIP's %d tokens; the rest is ignored: %.60s...",
                    self.context_length, prompts[i],
                )  # fmt: skip


class CausalTower(nn.Module):
    """OpenAI's text tower: causal blocks, and a projection of the end-of-text token.

    Args:
        tower: `CLIP` or open_clip's ``TextTransformer``; its modules are shared, not copied.
        end: id of the end-of-text token; None if it is the highest one.
    """

    def __init__(self, tower: Any, end: int | None = None) -> None:
        super().__init__()
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.blocks: nn.ModuleList = tower.transformer.resblocks
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self._end = end

    def ends(self, tokens: Tensor) -> Tensor:
        """Find the end-of-text token in every row: the highest id, or a given one."""
        return (tokens if self._end is None else (tokens == self._end).int()).argmax(dim=1)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Encode T x M tokens as T x E, reading positions `ends`."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = run_block(block, x, causal=True)
        x = self.ln_final(x[torch.arange(x.shape[0], device=x.device), ends])
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Linear):
            return cast(Tensor, self.text_projection(x))
        return x @ self.text_projection


def _causal_tower(clip: Any) -> CausalTower | None:
    """Get the text tower if it ignores all tokens after the end of a text and `run_block` supports its blocks."""
    if isinstance(clip, CLIP):
        return CausalTower(clip)
    if isinstance(clip, ImageTextModel):
        return CausalTower(clip.text) if hasattr(clip.text, "text_projection") else None
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer  # here, because it is slow to import

    tower = clip.text
    if not isinstance(tower, TextTransformer) or tower.attn_mask is None or tower.cls_emb is not None:
        return None
    blocks = tower.transformer.resblocks
    plain = all(isinstance(block, ResidualAttentionBlock) and isinstance(block.ls_1, nn.Identity) for block in blocks)
    if not plain or tower.pool_type not in ("argmax", "eos"):
        return None
    return CausalTower(tower, tower.eos_id if tower.pool_type == "eos" else None)
