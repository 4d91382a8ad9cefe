"""Generate auxiliary texts or class-biased prompts with a chat model: one checked answer each, or no file at all.

Accepted answers go straight to a journal under the name of their class, so a bad answer never
shifts the others and an interrupted run can resume. `itaclip.research.texts.commands.generate` writes
the text file only when every class has an answer, together with a JSON file on the origin of the texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from itaclip.common.console import make_progress
from itaclip.core.text.class_names import read_lines
from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.research.texts.answers import Task, find_problem, tidy
from itaclip.research.texts.chat import ChatModel

WITH_BACKGROUND = frozenset({"coco_object", "context60", "demo", "demo_things", "voc21"})
"""Shipped class files whose class 0 is the background."""

_FAILED = "failed"  # prefix of the reason when the model gave no answer at all


class Journal:
    """Answers by class, one JSON object per line; the first line holds model, task and settings.

    Args:
        path: the file; an existing one is resumed.
        asked: model, task and settings; a journal with different ones is rejected.
        force: whether to replace a journal with different settings instead.

    Attributes:
        texts: accepted answers by class.
        faults: the problem with the last answer, for classes without an accepted one.
        asks: number of requests per class, over all runs.

    Raises:
        ItaclipError: the journal has different settings, or cannot be read or written.
    """

    def __init__(self, path: Path, asked: dict[str, Any], force: bool = False) -> None:
        self._path = path
        self.texts: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.asks: Counter[str] = Counter()
        entries = list(self._entries()) if path.exists() else []
        if entries and entries[0] != asked and force:
            entries = []
        if entries and entries[0] != asked:
            raise ItaclipError(
                f"{path}: was started with {json.dumps(entries[0])}. Run with the same settings to resume, or with "
                "--force to start over."
            )
        for entry in entries[1:]:
            self._apply(entry)
        # rewritten, so that an incomplete last line does not run into the next one
        write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in entries or [asked]))

    def _entries(self) -> Iterator[dict[str, Any]]:
        for line in read_lines(self._path):
            with suppress(ValueError):  # incomplete after a kill: its class is asked again
                yield json.loads(line)

    def _apply(self, entry: dict[str, Any]) -> None:
        name = entry["name"]
        self.asks[name] += 1
        if "text" in entry:
            self.texts[name] = entry["text"]
            self.faults.pop(name, None)
        else:
            self.faults[name] = entry["refused"]

    def accept(self, name: str, text: str) -> None:
        """Store an answer, on disk immediately.

        Raises:
            ItaclipError: the file cannot be written.
        """
        self._add({"name": name, "text": text})

    def reject(self, name: str, wrong: str) -> None:
        """Record the problem with an answer.

        Raises:
            ItaclipError: the file cannot be written.
        """
        self._add({"name": name, "refused": wrong})

    def _add(self, entry: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise ItaclipError(f"{self._path}: cannot be written ({error.strerror or error}).") from error
        self._apply(entry)


def ask_all(
    chat: ChatModel, task: Task, names: Sequence[str], journal: Journal, console: Console, *,
    attempts: int = 5, batch_size: int = 8,
) -> dict[str, str]:  # fmt: skip
    """Ask for every class that the journal lacks, up to `attempts` times each.

    Args:
        chat: the model.
        task: the question.
        names: the classes to describe.
        journal: receives the answers.
        console: shows the progress.
        attempts: maximum number of requests per class in this run.
        batch_size: concurrent prompts.

    Returns:
        The problem with the last answer, for every class that still has none.

    Raises:
        ItaclipError: the model fails, or every request of a round fails.
    """
    with make_progress(console) as bar:
        bar_task = bar.add_task(f"{task.name}s", total=len(names))
        for _ in range(attempts):
            pending = [name for name in names if name not in journal.texts]
            bar.update(bar_task, completed=len(names) - len(pending))
            failures = 0
            for batch in _batches(pending, batch_size):
                prompts = [_prompt(task, name, journal.faults.get(name)) for name in batch]
                salts = [journal.asks[name] for name in batch]
                for name, reply in zip(batch, chat.replies(prompts, salts), strict=True):
                    text = tidy(reply.text, task)
                    wrong = f"{_FAILED} ({reply.failure})" if reply.failure else find_problem(text, name, task)
                    failures += reply.failure is not None
                    if wrong is None:
                        journal.accept(name, text)
                        bar.advance(bar_task)
                    else:
                        journal.reject(name, wrong if reply.failure or not text else f"{wrong}: {_short(text)}")
            if failures and failures == len(pending) == len(names):
                raise ItaclipError(f"every request failed; the last one: {journal.faults[names[-1]]}.")
    return {name: journal.faults[name] for name in names if name not in journal.texts}


def _prompt(task: Task, name: str, wrong: str | None) -> str:
    """Write the prompt for a class; a repeated prompt states the problem, otherwise the likeliest answer would
    recur."""
    prompt = task.prompt.format(name=name)
    if wrong is None or wrong.startswith(_FAILED):
        return prompt
    return f"{prompt} An earlier answer was refused because it {wrong.partition(':')[0]}."


def _batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")
