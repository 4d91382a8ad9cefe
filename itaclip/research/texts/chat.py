"""Chat models that answer prompts, on this machine or on an OpenAI-compatible server."""

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
    """Sampling parameters; the defaults are ITACLIP's for its LLaMA texts.

    Raises:
        ItaclipError: a value out of range.
    """

    temperature: float = 0.6
    """0 always selects the most likely token."""
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
    """An answer, or the reason why there is none."""

    text: str = ""
    failure: str | None = None


class ChatModel(Protocol):
    """Answers prompts, each in its own conversation."""

    def replies(self, prompts: Sequence[str], salts: Sequence[int]) -> Iterator[Reply]:
        """Yield one reply per prompt, in order. Salts vary the seed, so that asking again gives another answer."""

    def provenance(self) -> dict[str, Any]:
        """Identify the model."""


class LocalChat:
    """A transformers chat model from a local folder or the Hugging Face hub.

    huggingface_hub reads the access token from HF_TOKEN.

    Args:
        model: name on the hub, or a folder.
        sampling: sampling parameters.
        revision: branch, tag or commit on the hub.
        device: torch device; "auto" uses a GPU if there is one.

    Raises:
        ItaclipError: the model cannot be loaded, or is not a chat model.
    """

    def __init__(self, model: str, sampling: Sampling, revision: str | None = None, device: str = "auto") -> None:
        # importing transformers takes seconds, and ServerChat does not need it
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._name, self._sampling = model, sampling
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, padding_side="left")
            self._model = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype=torch.bfloat16)
            self._model = self._model.to(chosen).eval()
        except Exception as error:  # errors of transformers, safetensors, the hub and torch
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise ItaclipError(
                f"model {model!r} cannot be loaded: {reason} Pass a local folder or a name on the Hugging Face hub; "
                "for a gated model, accept its licence there and set HF_TOKEN."
            ) from error
        if not self._tokenizer.chat_template:
            raise ItaclipError(f"model {model!r} has no chat template; use an instruction-tuned model.")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._stops = self._stop_tokens()

    def _stop_tokens(self) -> list[int]:
        """Return the end-of-text and end-of-turn tokens. Older LLaMA 3 files list only the former and then never
        stop."""
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
        sampled = {"temperature": settings.temperature, "top_p": settings.top_p} if settings.temperature else {}
        torch.manual_seed(_seed(settings.seed, *salts, *prompts))
        try:
            tokens = self._model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                max_new_tokens=settings.max_new_tokens, do_sample=bool(sampled), **sampled,
                eos_token_id=self._stops, pad_token_id=self._tokenizer.pad_token_id,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise ItaclipError(
                f"{len(prompts)} prompts at a time do not fit into memory; use a smaller --batch-size."
            ) from error
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        for text in self._tokenizer.batch_decode(answers, skip_special_tokens=True):
            yield Reply(text)

    def provenance(self) -> dict[str, Any]:
        """Name, commit on the hub (None for a folder) and precision."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return {"model": self._name, "revision": commit, "dtype": "bfloat16"}


class ServerChat:
    """A chat model on an OpenAI-compatible server, such as vLLM or Ollama.

    Args:
        base_url: URL including the version, such as ``http://localhost:8000/v1``.
        model: name of the model on the server.
        sampling: sampling parameters.
        token: access token; sent to the server, never shown.
        timeout: maximum seconds per answer.
        pause: seconds before a failed request is repeated; doubles each time.

    Raises:
        ItaclipError: not an http(s) URL, or a URL with a password.
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
                f"--base-url {shown!r}: expected a URL such as http://localhost:8000/v1, without user or "
                "password; the token is read from OPENAI_API_KEY."
            )
        self._url = base_url.rstrip("/")
        self._model, self._sampling, self._token = model, sampling, token
        self._timeout, self._pause = timeout, pause
        self._opener = urllib.request.build_opener(_NoRedirect)

    def replies(self, prompts: Sequence[str], salts: Sequence[int]) -> Iterator[Reply]:
        """Send all prompts at once; the server batches them."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            yield from pool.map(self._ask, prompts, salts)

    def provenance(self) -> dict[str, Any]:
        """State the URL and the model's name; the server does not reveal a revision."""
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
                if error.code != 429 and error.code // 100 == 4:  # only this prompt is rejected
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
        """Do not follow; the redirect is reported as an HTTP error."""


def _read(content: bytes) -> Reply:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return Reply(failure=f"not in OpenAI's format: {content[:100]!r}")
    return Reply(text) if isinstance(text, str) else Reply()


def _seed(*parts: int | str) -> int:
    """Make a 31-bit seed that is the same in every process."""
    return zlib.crc32("\0".join(map(str, parts)).encode()) & 0x7FFFFFFF
