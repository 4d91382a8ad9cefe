"""CLIP's text tower, batched and cut at the last end-of-text token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from itaclip.clip.blocks import run_block
from itaclip.text.cache import TextCache, fingerprint

_LOG = logging.getLogger(__name__)

# Tokens per pass: large enough to fill the cores, small enough for the caches of a CPU
# (ViT-B/16's activations of 2,048 tokens take 16 MiB).
_TOKENS_PER_PASS = 2048


class TextEncoder(nn.Module):
    """Prompts to unit features in CLIP's joint space.

    The tower is causal and reads the end-of-text position only, so dropping what
    follows the last end-of-text of a batch changes nothing (ITACLIP, section 2).

    Args:
        clip: open_clip's CLIP of OpenAI's layout; only the text tower is kept.
        cache: keeps what `itaclip.text.bank.ensemble` makes of this tower's features.
    """

    def __init__(self, clip: CLIP, cache: TextCache | None = None) -> None:
        super().__init__()
        self.cache = cache
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.blocks: nn.ModuleList = clip.transformer.resblocks
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.context_length = int(clip.positional_embedding.shape[0])
        # CLIP's byte-pair vocabulary is the same for every architecture of this layout
        self.tokenizer = open_clip.SimpleTokenizer(context_length=self.context_length)

    @property
    def device(self) -> torch.device:
        """Where the tower computes."""
        return self.token_embedding.weight.device

    @cached_property
    def fingerprint(self) -> str:
        """A name for these weights, the same on every machine."""
        return fingerprint(self.named_parameters())

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode every distinct prompt once.

        Returns:
            len(prompts) x E, float32, unit norm, in the order given.
        """
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(unique)
        ends = tokens.argmax(dim=1)  # end-of-text has the highest id
        self._report_cut(unique, ends)
        features: list[Tensor] = [torch.empty(0)] * len(unique)
        order = ends.argsort(stable=True).tolist()
        while order:
            # prompts of like length share a pass; the longest one sets its width
            width = int(ends[order[-1]]) + 1
            count = max(1, _TOKENS_PER_PASS // width)
            part, order = order[-count:], order[:-count]
            encoded = self._encode(tokens[part, :width].to(self.device), ends[part].to(self.device))
            for i, feature in zip(part, encoded, strict=True):
                features[i] = feature
        place = {prompt: i for i, prompt in enumerate(unique)}
        return torch.stack([features[place[prompt]] for prompt in prompts])

    def _encode(self, tokens: Tensor, ends: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = run_block(block, x, causal=True)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), ends])
        return F.normalize((x @ self.text_projection).float(), dim=-1)

    def _report_cut(self, prompts: Sequence[str], ends: Tensor) -> None:
        for i in (ends == self.context_length - 1).nonzero().flatten().tolist():
            if len(self.tokenizer.encode(prompts[i])) + 2 > self.context_length:
                _LOG.warning(
                    "A prompt is longer than CLIP's %d tokens; its end is not read: %.60s...",
                    self.context_length, prompts[i],
                )  # fmt: skip
