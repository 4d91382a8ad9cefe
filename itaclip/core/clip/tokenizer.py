"""Tokenizers of text towers, and CLIP's own byte-pair encoding."""

from __future__ import annotations

import gzip
import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import regex
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers
from torch import Tensor

_START, _END = "<start_of_text>", "<end_of_text>"
_MERGES = 48894  # of the 262,144 in the file; with 512 bytes and the two ends they make 49,408 tokens
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"


class Tokenizer(ABC):
    """Converts texts to rows of token ids.

    Attributes:
        padding: id that pads a row.
        vocabulary: a short name of the vocabulary; empty for CLIP's byte pairs.
    """

    padding: int = 0
    vocabulary: str = ""

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokenize T texts: T x context length, int64. Longer texts are truncated."""

    @abstractmethod
    def length(self, text: str) -> int:
        """Count the tokens of a text before truncation, including the start and end tokens."""


class BytePairs(Tokenizer):
    """CLIP's lower-cased byte-pair encoding (Radford et al., 2021), by Hugging Face's tokenizers.

    Args:
        context_length: tokens of a prompt.
    """

    def __init__(self, context_length: int = 77) -> None:
        self._context_length = context_length
        self._library, self._start, self._end = _library()
        self._words = regex.compile(_WORDS, regex.IGNORECASE)

    @staticmethod
    def merged() -> dict[str, int]:
        """Assign numbers to all tokens but the start and the end of a text."""
        return _numbered(_merges())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), self._context_length, dtype=torch.int64)
        inside = self._context_length - 2
        words = [self._words.findall(_clean(text)) for text in texts]
        for row, encoded in zip(rows, self._library.encode_batch(words, is_pretokenized=True), strict=True):
            ids = [self._start, *encoded.ids[:inside], self._end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def length(self, text: str) -> int:
        return len(self._library.encode(self._words.findall(_clean(text)), is_pretokenized=True).ids) + 2


def _clean(text: str) -> str:
    """Repair the encoding, resolve HTML entities, collapse whitespace and convert to lower case."""
    if not (text.isascii() and text.isprintable()):
        import ftfy  # here, because plain words need no repair, and importing it takes 0.2 s

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def _numbered(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    return {token: number for number, token in enumerate(tokens)}


@cache
def _library() -> tuple[Library, int, int]:
    """Build the tokenizer once for all models of a process; it takes 0.2 s. Also the ids of a text's start and end."""
    merges = _merges()
    vocabulary = _numbered(merges)
    start, end = len(vocabulary), len(vocabulary) + 1
    library = Library(models.BPE(vocabulary | {_START: start, _END: end}, merges, end_of_word_suffix="</w>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.add_special_tokens([_START, _END])
    return library, start, end


def _merges() -> list[tuple[str, str]]:
    """Read the published merges from open_clip's folder, without importing open_clip."""
    found = find_spec("open_clip")
    assert found is not None, "open_clip is a requirement of this package"
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = (line.split() for line in islice(file, 1, 1 + _MERGES))
        return [(first, second) for first, second in pairs]
