"""Generate auxiliary texts with a chat model: one checked answer per class, or no file at all.

Accepted answers go straight to a journal under the name of their class, so a bad answer never
shifts the others and an interrupted run can resume. The text file is written only when every
class has an answer, together with a JSON file on the origin of the texts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from itaclip.common.console import make_console, make_progress
from itaclip.core.text.auxiliary import SEPARATOR, read_auxiliary_texts
from itaclip.core.text.class_names import ClassNames, read_class_names, read_lines
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import refuse_arguments, write_json, write_text
from itaclip.research.texts.answers import Task, fault, tidy
from itaclip.research.texts.chat import ChatModel, LocalChat, Sampling, ServerChat

DEFAULT_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"

WITH_BACKGROUND = frozenset({"coco_object", "context60", "demo", "voc21"})
"""Shipped class files whose class 0 is the background."""

INCOMPLETE = 1
"""Exit status when a class has no acceptable answer."""

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
                    wrong = f"{_FAILED} ({reply.failure})" if reply.failure else fault(text, name, task)
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
    """The prompt for a class; a repeated prompt states the problem, otherwise the likeliest answer would recur."""
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


# --- command line ------------------------------------------------------------


def parser(task: Task) -> argparse.ArgumentParser:
    """The options of ``tools/llama3_*_generation.py``."""
    options = argparse.ArgumentParser(description=f"Generate one {task.name} per class with a chat model.")
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="name of a shipped class file, configs/cls_<name>.txt")
    source.add_argument("--names", type=Path, help="class file of your own")
    options.add_argument("--background", action="store_true",
                         help="class 0 is the background and gets no text (automatic with --dataset)")  # fmt: skip
    options.add_argument("--out", type=Path, required=True, help="text file to write")
    options.add_argument("--model", default=DEFAULT_MODEL,
                         help="chat model: a name on the Hugging Face hub, a folder, or the server's name for it "
                         "(default: %(default)s)")  # fmt: skip
    options.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    options.add_argument("--device", default="auto", help="torch device (default: a GPU if there is one)")
    options.add_argument("--base-url", help="ask an OpenAI-compatible server, such as http://localhost:11434/v1")
    options.add_argument("--temperature", type=float, default=Sampling.temperature, help="default: %(default)s")
    options.add_argument("--top-p", type=float, default=Sampling.top_p, help="default: %(default)s")
    options.add_argument("--max-new-tokens", type=int, default=Sampling.max_new_tokens, help="default: %(default)s")
    options.add_argument("--seed", type=int, default=Sampling.seed, help="default: %(default)s")
    options.add_argument("--attempts", type=int, default=5, help="requests per class (default: %(default)s)")
    options.add_argument("--batch-size", type=int, default=8, help="concurrent prompts (default: %(default)s)")
    options.add_argument("--force", action="store_true", help="replace a file or a journal with other settings")
    return options


def main(task: Task, configs: Path, arguments: Sequence[str] | None = None) -> int:
    """Generate a text file; returns the exit status.

    Args:
        task: the question for every class.
        configs: folder of the shipped class files.
        arguments: command-line arguments; None uses those of the process.

    Raises:
        ItaclipError: bad input, with its message.
    """
    args = parser(task).parse_args(arguments)
    refuse_arguments("out", vars(args))
    for name in ("attempts", "batch_size"):
        if getattr(args, name) < 1:
            raise ItaclipError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected 1 or more.")
    background = args.background or args.dataset in WITH_BACKGROUND
    classes = read_class_names(_shipped(configs, args.dataset) if args.dataset else args.names, background)
    names = _names_to_describe(classes, background)
    console = make_console()
    journal_path = args.out.with_name(f"{args.out.name}.journal.jsonl")
    # a journal next to the file means that a forced run was interrupted, so the file must be replaced
    if args.out.exists() and not args.force and not journal_path.exists():
        try:
            read_auxiliary_texts(args.out, classes, background)
        except ItaclipError as error:
            raise ItaclipError(f"{error} --force replaces the file.") from error
        console.print(f"{args.out}: already complete; --force generates it again.")
        return 0
    sampling = Sampling(args.temperature, args.top_p, args.max_new_tokens, args.seed)
    asked = {
        "task": task.name, "prompt": task.prompt, "model": args.model, "revision": args.revision,
        "base_url": args.base_url, **vars(sampling),
    }  # fmt: skip
    chat: ChatModel
    if args.base_url:
        chat = ServerChat(args.base_url, args.model, sampling, os.environ.get("OPENAI_API_KEY"))
    else:
        chat = LocalChat(args.model, sampling, args.revision, args.device)
    journal = Journal(journal_path, asked, args.force)
    faults = ask_all(chat, task, names, journal, console, attempts=args.attempts, batch_size=args.batch_size)
    if faults:
        console.print(_report(faults, f"{len(faults)} of {len(names)} classes without a {task.name}"))
        console.print(f"{args.out} was not written. Run again to ask only for these classes; accepted answers are "
                      f"kept in {journal_path}.")  # fmt: skip
        return INCOMPLETE
    write_json(args.out.with_name(f"{args.out.name}.provenance.json"), {
        "file": args.out.name, "classes": Path(classes.source).name, "date": datetime.now(timezone.utc).isoformat(),
        **asked, **chat.provenance(), "asks": {name: journal.asks[name] for name in names},
    })  # fmt: skip
    write_text(args.out, "".join(f"{name} {SEPARATOR}{journal.texts[name]}\n" for name in names))
    journal_path.unlink(missing_ok=True)
    console.print(f"{args.out}: {len(names)} {task.name}s written.")
    return 0


def _shipped(configs: Path, name: str) -> Path:
    known = sorted(path.stem.removeprefix("cls_") for path in configs.glob("cls_*.txt"))
    if name not in known:
        raise ItaclipError(f"--dataset {name!r}: expected one of {', '.join(known)}.{did_you_mean(name, known)}")
    return configs / f"cls_{name}.txt"


def _names_to_describe(classes: ClassNames, background: bool) -> tuple[str, ...]:
    names = classes.names[1:] if background else classes.names
    for name in names:
        if SEPARATOR in name:
            raise ItaclipError(
                f"{classes.source}: the name {name!r} contains '{SEPARATOR}', which separates names from texts."
            )
    if not names:
        raise ItaclipError(f"{classes.source}: has no class besides the background.")
    return names


def _report(faults: dict[str, str], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("last answer", overflow="fold")
    for name, wrong in faults.items():
        table.add_row(name, wrong)
    return table
