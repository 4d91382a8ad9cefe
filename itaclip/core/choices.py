"""Choices between ways that compute the same, made by measuring on this machine and remembered.

Which of two kernels or engines is faster depends on the processor: in bfloat16, two matrix products are faster
than torch's fused attention on one CPU and forty times slower on another. So the code names the ways, and the machine
decides.
"""

from __future__ import annotations

import json
import logging
import platform
import timeit
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from itaclip.common.environment import instructions, processor
from itaclip.errors import ItaclipError
from itaclip.files import cache_folder, write_json

_LOG = logging.getLogger(__name__)


def choices_file() -> Path:
    """File ``engines/choices.json`` in ``$ITACLIP_CACHE_DIR`` or ``~/.cache/itaclip``."""
    return cache_folder() / "engines" / "choices.json"


def fastest(question: str, about: Mapping[str, Any], ways: Mapping[str, Callable[[], object]]) -> str:
    """Name the fastest of several ways: from the file if this machine was asked before, otherwise measured.

    Args:
        question: what is chosen, such as "attention".
        about: what the answer depends on besides the machine and the number of threads: shape, precision.
        ways: calls of each way on the same input; the first call of each may prepare what it needs.

    Returns:
        A key of `ways`.
    """
    key = json.dumps([question, *sorted(about.items()), _processor(), torch.get_num_threads()])
    path = choices_file()
    known = _read(path).get(key)
    if known and set(known["seconds"]) == set(ways):
        return str(known["taken"])
    seconds = {way: _seconds(call) for way, call in ways.items()}
    taken = min(seconds, key=lambda way: seconds[way])
    _LOG.info("%s: %s; %s will be used.", _described(question, about),
              ", ".join(f"{way} takes {1000 * s:.3g} ms" for way, s in seconds.items()), taken)  # fmt: skip
    _remember(path, key, {"question": question, "about": dict(about), "threads": torch.get_num_threads(),
                          "seconds": seconds, "taken": taken})  # fmt: skip
    return taken


def remembered() -> list[str]:
    """Describe every remembered choice in a line: what was chosen for what, and what each way took."""
    lines = []
    for entry in _read(choices_file()).values():
        seconds = ", ".join(f"{way} {1000 * s:.3g} ms" for way, s in entry["seconds"].items())
        what = _described(entry["question"], entry["about"])
        lines.append(f"{what}, {entry['threads']} threads: {entry['taken']} ({seconds})")
    return sorted(lines)


def _described(question: str, about: Mapping[str, Any]) -> str:
    return f"{question} ({', '.join(f'{name} {value}' for name, value in about.items())})"


@lru_cache(maxsize=1)
def _processor() -> str:
    """Machine, processor and instructions: a container may move to another processor."""
    return f"{platform.node()}, {processor()}, {instructions()}"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Read the choices; an entry or a file that is not as this version writes it counts as not there."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    fields = {"question", "about", "threads", "seconds", "taken"}
    entries = {key: entry for key, entry in found.items() if isinstance(entry, dict) and set(entry) == fields}
    return {key: entry for key, entry in entries.items() if entry["taken"] in entry["seconds"]}


def _remember(path: Path, key: str, entry: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            write_json(path, _read(path) | {key: entry})
    except (OSError, ItaclipError) as error:
        _LOG.warning("What was measured could not be saved: %s", error)


@torch.no_grad()
def _seconds(call: Callable[[], object]) -> float:
    """Time the fastest of three runs, after a warm-up run."""
    call()
    return min(timeit.repeat(call, number=1, repeat=3))
