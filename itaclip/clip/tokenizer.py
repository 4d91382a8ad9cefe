"""The tokenizer that a text tower was trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from itaclip.clip.finding import local_folder, quiet, require_network, weight_folders
from itaclip.errors import ItaclipError

# One of them is in every repository with a tokenizer.
_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


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
        options = dict(self.options)
        if self.name is None:
            return Tokenizer(open_clip.SimpleTokenizer(context_length=self.context_length, **options))
        folder = Path(self.name) if Path(self.name).is_dir() else local_folder(self.name)
        cached = folder is None and any(isinstance(try_to_load_from_cache(self.name, f), str) for f in _FILES)
        try:
            if folder is None and not cached:
                require_network(ENDPOINT)
            with quiet("huggingface_hub", "httpx", "transformers"):
                found = HFTokenizer(
                    str(folder or self.name), context_length=self.context_length, tokenizer_mode=self.mode,
                    local_files_only=bool(folder or cached), trust_remote_code=False, **options,
                )  # fmt: skip
        except Exception as error:  # whatever transformers, its parsers and the network raise
            places = [folder] if folder else [f / self.name.rsplit("/", 1)[-1] for f in weight_folders()]
            raise ItaclipError(
                f"{self.name}: the tokenizer could not be loaded ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}).\n"
                f"  expected files: tokenizer_config.json, and tokenizer.json or SentencePiece's model\n"
                f"                  (which requires: pip install 'itaclip[sentencepiece]')\n"
                f"  put them in:    {' or '.join(map(str, places))}"
                + ("" if folder else f"\n  address:        {ENDPOINT}/{self.name}")
            ) from error
        return Tokenizer(found)


class Tokenizer:
    """Convert texts to rows of token ids, with any vocabulary.

    Args:
        tokenizer: open_clip's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        inner = getattr(tokenizer, "tokenizer", None)
        self.padding = 0 if inner is None or inner.pad_token_id is None else int(inner.pad_token_id)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokenize T texts: T x context length, int64. Longer texts are cut."""
        found: Tensor = self._tokenizer(list(texts))
        return found

    @property
    def vocabulary(self) -> str:
        """A short name of the vocabulary; empty for CLIP's byte pairs."""
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            return ""
        described = [sorted(inner.get_vocab().items()), inner.padding_side, self._tokenizer.tokenizer_mode]
        return hashlib.sha256(repr(described).encode()).hexdigest()[:16]

    def length(self, text: str) -> int:
        """Number of tokens of a text before it is cut, including those at its ends."""
        if isinstance(self._tokenizer, open_clip.SimpleTokenizer):
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer(self._tokenizer.clean_fn(text)).input_ids)
