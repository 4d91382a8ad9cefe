"""Where a text tower's tokenizer comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itaclip.core.clip.tokenizer import BytePairs, Tokenizer


@dataclass(frozen=True)
class TokenizerSource:
    """Source of a tokenizer, as in open_clip's configurations.

    Attributes:
        name: a repository of the Hugging Face hub, or a folder; None for CLIP's byte pairs,
            which come with open_clip.
        context_length: tokens of a prompt.
        mode: open_clip's `tokenizer_mode`.
        options: further arguments of open_clip's tokenizer, by name.
    """

    name: str | None = None
    context_length: int = 77
    mode: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def load(self) -> Tokenizer:
        """Load the tokenizer from a folder, the hub's cache, or the hub.

        Raises:
            ItaclipError: its files are missing or damaged.
        """
        if self.name is None and not self.options:
            return BytePairs(self.context_length)
        from itaclip.core.clip.hub_tokenizer import load_tokenizer  # here, because it imports open_clip

        return load_tokenizer(self.name, self.context_length, self.mode, dict(self.options))
