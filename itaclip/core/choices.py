"""Choices between ways that compute the same, made by measuring on this machine and remembered.

Which of two kernels, engines or precisions is faster depends on the processor: in bfloat16, two matrix products are
faster than torch's fused attention on one CPU and forty times slower on another. So the code names the ways, and the
machine decides. A run records what was chosen for it, and follows that wherever it is continued.
"""

from __future__ import annotations

import json
import logging
import platform
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from itaclip.common.environment import instructions, processor
from itaclip.errors import ItaclipError
from itaclip.files import cache_folder, write_json

_LOG = logging.getLogger(__name__)

_FIELDS = {"question", "about", "threads", "seconds", "agreement", "taken"}
_TURNS = 3  # times that each way is timed, after the first
_NEARLY = 0.03  # by how much the preferred of several ways may be slower
_RECORDS: ContextVar[dict[str, str] | None] = ContextVar("records", default=None)


@dataclass(frozen=True)
class Agreement:
    """What a way has to agree with.

    Attributes:
        least: smallest share of equal results, in [0, 1].
        share: returns a way's share of results that equal the reference's.
    """

    least: float
    share: Callable[[str], float]


@dataclass(frozen=True)
class _Question:
    """What is chosen, and what the answer depends on besides the machine and the number of threads."""

    what: str
    about: Mapping[str, Any]
    ways: Sequence[str]

    @property
    def name(self) -> str:
        """The question as users read it, and as a run records it."""
        return f"{self.what} ({', '.join(f'{name} {value}' for name, value in self.about.items())})"

    @property
    def key(self) -> str:
        """The question on this machine, as the file has it."""
        return json.dumps([self.what, *sorted(self.about.items()), _processor(), torch.get_num_threads(), [*self.ways]])

    def remembered(self) -> str | None:
        """Return the answer of this process, or of the file; None if it was never asked."""
        place = str(choices_file()), self.key
        if place not in _answers():
            known = _read(choices_file()).get(self.key)
            if known is None:
                return None
            _answers()[place] = known["taken"]
        return _answers()[place]

    def remember(self, taken: str, seconds: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Keep an answer, in this process and in the file."""
        _LOG.info("%s: %s; %s will be used.", self.name,
                  ", ".join(f"{way} takes {1000 * s:.3g} ms" for way, s in seconds.items()), taken)  # fmt: skip
        _answers()[str(choices_file()), self.key] = taken
        entry = {"question": self.what, "about": dict(self.about), "threads": torch.get_num_threads(),
                 "seconds": dict(seconds), "agreement": dict(shares), "taken": taken}  # fmt: skip
        with _alone("lock"):
            try:
                write_json(choices_file(), _read(choices_file()) | {self.key: entry})
            except (OSError, ItaclipError) as error:
                _LOG.info("What was measured could not be saved: %s", error)


def choices_file() -> Path:
    """File ``engines/choices.json`` in ``$ITACLIP_CACHE_DIR`` or ``~/.cache/itaclip``."""
    return cache_folder() / "engines" / "choices.json"


def fastest(
    what: str,
    about: Mapping[str, Any],
    ways: Mapping[str, Callable[[], object]],
    agreement: Agreement | None = None,
    gain: float = 0.0,
) -> str:
    """Name the fastest of several ways: as the run that is followed, from the file, or else measured.

    Processes that ask together get the same answer: one measures, the others wait.

    Args:
        what: what is chosen, such as "attention".
        about: what the answer depends on besides the machine and the number of threads: shape, precision.
        ways: calls of each way on the same input; the first call of each may prepare what it needs.
        agreement: with it, the fastest of those that agree; the last way is the reference.
        gain: share of the time by which a later way has to be faster than an earlier one.

    Returns:
        A key of `ways`.

    Raises:
        ItaclipError: the run that is followed took a way that is not there.
    """
    question = _Question(what, about, tuple(ways))
    taken = _followed().get(question.name)
    if taken is not None and taken not in ways:
        raise ItaclipError(
            f"{question.name}: this run took {taken}, which this machine does not have ({', '.join(ways)}); install "
            "it, or start a run of its own."
        )
    taken = taken or question.remembered()
    if taken is None:
        with _alone("measuring"):  # side by side, ways would slow each other down
            taken = question.remembered() or _measured(question, ways, agreement, gain)  # another may have asked
    records = _RECORDS.get()
    if records is not None:
        records[question.name] = taken
    return taken


def _measured(
    question: _Question, ways: Mapping[str, Callable[[], object]], agreement: Agreement | None, gain: float
) -> str:
    """Measure all ways, and compare results from the fastest on until one agrees."""
    shares: dict[str, float] = {}
    token = _RECORDS.set(None)  # what is chosen only to measure is not used afterwards
    try:
        seconds = {way: _seconds(call) for way, call in ways.items()}
        handicapped = {way: s / (1 - gain) ** n for n, (way, s) in enumerate(seconds.items())}
        taken = ""
        for taken in sorted(handicapped, key=lambda way: handicapped[way]):
            if agreement is None or taken == question.ways[-1]:
                break
            shares[taken] = agreement.share(taken)
            if shares[taken] >= agreement.least:
                break
    finally:
        _RECORDS.reset(token)
    question.remember(taken, seconds, shares)
    return taken


class Turns:
    """A choice that is measured while the work is done: ways take turns until each was timed often enough.

    Args:
        what: see `fastest`.
        about: see `fastest`.
        ways: the ways; the first that is nearly as fast as the fastest is taken.
    """

    def __init__(self, what: str, about: Mapping[str, Any], ways: Sequence[str]) -> None:
        self._question = _Question(what, about, tuple(ways))
        self._seconds: dict[str, list[float]] = {way: [] for way in ways}
        self.taken = ways[0] if len(ways) == 1 else self._question.remembered()

    def next(self) -> str:
        """Name the way whose turn it is, or the one that was taken."""
        return self.taken or min(self._seconds, key=lambda way: len(self._seconds[way]))

    def add(self, way: str, seconds: float) -> None:
        """Add what a unit of work took by a way; the first time of each may include what it prepared."""
        if self.taken is not None:  # a run may have millions of batches
            return
        self._seconds[way].append(seconds)
        if all(len(times) > _TURNS for times in self._seconds.values()):
            best = {way: min(times[1:]) for way, times in self._seconds.items()}
            limit = min(best.values()) * (1 + _NEARLY)
            self.taken = next(way for way in best if best[way] <= limit)
            self._question.remember(self.taken, best, {})


@contextmanager
def recording(records: dict[str, str]) -> Iterator[None]:
    """Add to `records` what is chosen in the block: answers by question, as `follow` takes them."""
    token = _RECORDS.set(records)
    try:
        yield
    finally:
        _RECORDS.reset(token)


def follow(records: Mapping[str, str]) -> None:
    """Let this process answer as a run did that recorded its choices, instead of by measuring."""
    _followed().update(records)


def remembered() -> list[str]:
    """Describe every remembered choice in a line: what was chosen for what, and what each way took."""
    lines = []
    for entry in _read(choices_file()).values():
        shares = entry["agreement"]
        ways = [f"{way} {1000 * s:.3g} ms" + (f", {shares[way]:.2%} equal" if way in shares else "")
                for way, s in entry["seconds"].items()]  # fmt: skip
        name = _Question(entry["question"], entry["about"], ()).name
        lines.append(f"{name}, {entry['threads']} threads: {entry['taken']} ({('; ' if shares else ', ').join(ways)})")
    return sorted(lines)


@lru_cache(maxsize=1)
def _followed() -> dict[str, str]:
    """Keep the answers of the run that this process continues, by question."""
    return {}


@lru_cache(maxsize=1)
def _answers() -> dict[tuple[str, str], str]:
    """Keep what this process has asked before, by file and key: some questions are asked in every pass."""
    return {}


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
    entries = {key: entry for key, entry in found.items() if isinstance(entry, dict) and set(entry) == _FIELDS}
    return {key: entry for key, entry in entries.items() if entry["taken"] in entry["seconds"]}


@contextmanager
def _alone(suffix: str) -> Iterator[None]:
    """Hold a lock beside the file; where there can be none, go on without."""
    try:
        choices_file().parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(choices_file().with_suffix(f".{suffix}"), is_singleton=True)  # choices may need others
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


@torch.no_grad()
def _seconds(call: Callable[[], object]) -> float:
    """Time the fastest of three runs, after a warm-up run."""
    call()
    return min(timeit.repeat(call, number=1, repeat=3))
