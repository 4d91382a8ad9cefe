"""Tokenizers of the Hugging Face hub, and open_clip's own with options."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from itaclip.common.logs import quiet
from itaclip.core.clip.download import local_folder, require_network, weight_folders
from itaclip.core.clip.tokenizer import Tokenizer
from itaclip.errors import ItaclipError, install_extra

# Every repository with a tokenizer has at least one of these.
_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


def load_tokenizer(name: str | None, context_length: int, mode: str | None, options: dict[str, Any]) -> Tokenizer:
    """Load a tokenizer from a folder, the hub's cache, or the hub.

    Args:
        name: a repository of the hub or a folder; None for CLIP's byte pairs with `options`.
        context_length: tokens of a prompt.
        mode: open_clip's `tokenizer_mode`.
        options: further arguments of open_clip's tokenizer.

    Raises:
        ItaclipError: its files are missing or damaged.
    """
    if name is None:
        return OpenClipTokenizer(open_clip.SimpleTokenizer(context_length=context_length, **options))
    folder = Path(name) if Path(name).is_dir() else local_folder(name)
    cached = folder is None and any(isinstance(try_to_load_from_cache(name, f), str) for f in _FILES)
    try:
        if folder is None and not cached:
            require_network(ENDPOINT)
        with quiet("huggingface_hub", "httpx", "transformers"):
            found = HFTokenizer(
                str(folder or name), context_length=context_length, tokenizer_mode=mode,
                local_files_only=bool(folder or cached), trust_remote_code=False, **options,
            )  # fmt: skip
    except Exception as error:  # transformers, its parsers and the network raise many types
        places = [folder] if folder else [f / name.rsplit("/", 1)[-1] for f in weight_folders()]
        raise ItaclipError(
            f"{name}: the tokenizer could not be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}).\n"
            f"  expected files: tokenizer_config.json, and tokenizer.json or SentencePiece's model\n"
            f"                  (for which {install_extra('sentencepiece')})\n"
            f"  put them in:    {' or '.join(map(str, places))}"
            + ("" if folder else f"\n  address:        {ENDPOINT}/{name}")
        ) from error
    return OpenClipTokenizer(found)


class OpenClipTokenizer(Tokenizer):
    """One of open_clip's tokenizers.

    Args:
        tokenizer: open_clip's ``SimpleTokenizer`` or ``HFTokenizer``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._inner = inner = getattr(tokenizer, "tokenizer", None)  # transformers' tokenizer, if it comes from the hub
        if inner is not None:
            self.padding = int(inner.pad_token_id or 0)
            described = [sorted(inner.get_vocab().items()), inner.padding_side, tokenizer.tokenizer_mode]
            self.vocabulary = hashlib.sha256(repr(described).encode()).hexdigest()[:16]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        found: Tensor = self._tokenizer(list(texts))
        return found

    def length(self, text: str) -> int:
        if self._inner is None:
            return len(self._tokenizer.encode(text)) + 2
        return len(self._inner(self._tokenizer.clean_fn(text)).input_ids)
