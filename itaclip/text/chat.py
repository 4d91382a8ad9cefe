"""Chat models that answer prompts: on this machine, or behind an OpenAI-compatible server."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch

from itaclip.errors import ItaclipError


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn (ITACLIP's settings for its LLaMA texts).

    Raises:
        ItaclipError: a value out of range.
    """

    temperature: float = 0.6
    """0 takes the likeliest token every time."""
    top_p: float = 0.9
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
        ):
            if not good:
                raise ItaclipError(f"{name} {getattr(self, name)}: expected {expected}.")


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none."""

    text: str = ""
    failure: str | None = None


class ChatModel(Protocol):
    """Answers prompts, each a conversation of its own."""

    def replies(self, prompts: Sequence[str], salts: Sequence[int]) -> Iterator[Reply]:
        """One reply per prompt, in order. The salts vary the seed, so that asking again differs."""

    def provenance(self) -> dict[str, Any]:
        """What model it is, for the record."""


class LocalChat:
    """A transformers chat model from a local folder or the Hugging Face hub.

    The hub's token is read from HF_TOKEN by huggingface_hub itself.

    Args:
        model: name on the hub, or a folder.
        sampling: how answers are drawn.
        revision: branch, tag or commit on the hub.
        device: torch device; "auto" takes a GPU when there is one.

    Raises:
        ItaclipError: the model cannot be loaded, or is no chat model.
    """

    def __init__(self, model: str, sampling: Sampling, revision: str | None = None, device: str = "auto") -> None:
        # loading transformers takes seconds, and servers need none of it
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._name, self._sampling = model, sampling
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
            self._model = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype=torch.bfloat16)
            self._model = self._model.to(place).eval()
        except Exception as error:  # transformers, safetensors, the hub and torch raise errors of their own
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise ItaclipError(
                f"model {model!r} cannot be loaded: {reason} Give a local folder, or a name on the Hugging Face hub; "
                "for gated models accept the licence there and set HF_TOKEN."
            ) from error
        if not self._tokenizer.chat_template:
            raise ItaclipError(f"model {model!r} has no chat template; take an instruction-tuned model.")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._stops = self._stop_tokens()

    def _stop_tokens(self) -> list[int]:
        """Ends of text and of turn. Older LLaMA 3 files name only the former, and then never stop."""
        configured = self._model.generation_config.eos_token_id
        stops = configured if isinstance(configured, list) else [configured]
        stops.append(self._tokenizer.eos_token_id)
        stops.append(self._tokenizer.get_vocab().get("<|eot_id|>"))
        return sorted({stop for stop in stops if stop is not None})

    @torch.inference_mode()
    def replies(self, prompts: Sequence[str], salts: Sequence[int]) -> Iterator[Reply]:
        """Answer all prompts in one batch, padded on the left."""
        inputs = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in prompts],
            add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        settings = self._sampling
        drawn = {"temperature": settings.temperature, "top_p": settings.top_p} if settings.temperature else {}
        torch.manual_seed(_seed(settings.seed, *salts, *prompts))
        try:
            tokens = self._model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                max_new_tokens=settings.max_new_tokens, do_sample=bool(drawn), **drawn,
                eos_token_id=self._stops, pad_token_id=self._tokenizer.pad_token_id,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise ItaclipError(f"{len(prompts)} prompts at a time do not fit; use a smaller --batch-size.") from error
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        for text in self._tokenizer.batch_decode(answers, skip_special_tokens=True):
            yield Reply(text)

    def provenance(self) -> dict[str, Any]:
        """Name, commit on the hub (None for a folder) and precision."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return {"model": self._name, "revision": commit, "dtype": "bfloat16"}


class ServerChat:
    """A chat model behind an OpenAI-compatible server, such as vLLM or Ollama.

    Args:
        base_url: up to and with the version, such as ``http://localhost:8000/v1``.
        model: its name on the server.
        sampling: how answers are drawn.
        token: is sent along, and never shown.
        timeout: seconds that one answer may take.
        pause: seconds before a failed request is repeated; doubled each time.

    Raises:
        ItaclipError: no http(s) address, or one that holds a password.
    """

    _TRIES = 3

    def __init__(
        self, base_url: str, model: str, sampling: Sampling, token: str | None = None, timeout: float = 600.0,
        pause: float = 1.0,
    ) -> None:  # fmt: skip
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            shown = base_url.replace(address.netloc, address.netloc.rpartition("@")[2])
            raise ItaclipError(
                f"--base-url {shown!r}: expected an address such as http://localhost:8000/v1, without a user or "
                "password; the token is read from OPENAI_API_KEY."
            )
        self._url = base_url.rstrip("/")
        self._model, self._sampling, self._token = model, sampling, token
        self._timeout, self._pause = timeout, pause
        self._opener = urllib.request.build_opener(_NoRedirect)

    def replies(self, prompts: Sequence[str], salts: Sequence[int]) -> Iterator[Reply]:
        """Send all prompts at once; the server makes its own batches."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            yield from pool.map(self._ask, prompts, salts)

    def provenance(self) -> dict[str, Any]:
        """The address and the model's name there; its revision is the server's secret."""
        return {"model": self._model, "revision": None, "base_url": self._url}

    def _ask(self, prompt: str, salt: int) -> Reply:
        settings = self._sampling
        body = {
            "model": self._model, "messages": [{"role": "user", "content": prompt}],
            "temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_new_tokens,
            "seed": _seed(settings.seed, salt, prompt),
        }  # fmt: skip
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        request = urllib.request.Request(f"{self._url}/chat/completions", json.dumps(body).encode(), headers)
        failure = ""
        for attempt in range(self._TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    return _read(response.read())
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code}: {self._hide(error.read(500).decode(errors='replace'))}"
                if error.code in (401, 403, 404) or error.code // 100 == 3:
                    raise ItaclipError(f"{self._url}: {failure} (address, model name or OPENAI_API_KEY?)") from None
                if error.code != 429 and error.code // 100 == 4:  # it is this prompt that is refused
                    return Reply(failure=failure)
            except (OSError, http.client.HTTPException) as error:
                failure = self._hide(str(error) or type(error).__name__)
                if attempt == self._TRIES - 1:
                    raise ItaclipError(f"{self._url}: no answer ({failure}). Is the server running?") from None
        return Reply(failure=failure)

    def _hide(self, text: str) -> str:
        text = " ".join(text.split())[:200]
        return text.replace(self._token, "***") if self._token else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects would carry the token to another server, and turn a POST into a GET."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refuse: the redirect is then reported as the error it is."""


def _read(content: bytes) -> Reply:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return Reply(failure=f"not in OpenAI's form: {content[:100]!r}")
    return Reply(text) if isinstance(text, str) else Reply()


def _seed(*parts: int | str) -> int:
    """A seed of 31 bits that is the same in every process."""
    return zlib.crc32("\0".join(map(str, parts)).encode()) & 0x7FFFFFFF
