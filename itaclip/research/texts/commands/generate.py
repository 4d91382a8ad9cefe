"""The command line of `tools/llama3_definition_generation.py` and its siblings for synonyms and prompts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from rich.table import Table

from itaclip.common.console import make_console
from itaclip.core.text.auxiliary import SEPARATOR, read_auxiliary_texts
from itaclip.core.text.class_names import ClassNames, read_class_names
from itaclip.core.text.class_prompts import read_class_prompts
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import refuse_arguments, write_json, write_text
from itaclip.research.texts.answers import Task
from itaclip.research.texts.chat import ChatModel, LocalChat, Sampling, ServerChat
from itaclip.research.texts.generation import WITH_BACKGROUND, Journal, ask_all

DEFAULT_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"

INCOMPLETE = 1
"""Exit status when a class has no acceptable answer."""


def parser(task: Task) -> argparse.ArgumentParser:
    """Declare the options of these programs."""
    what = f"{task.sentences} sentences per word" if task.sentences else f"one {task.name} per class"
    options = argparse.ArgumentParser(description=f"Generate {what} with a chat model.")
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
    options.add_argument("--max-new-tokens", type=int, default=Sampling.max_new_tokens * max(1, task.sentences),
                         help="default: %(default)s")  # fmt: skip
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
    names = tuple(dict.fromkeys(classes.queries)) if task.sentences else _names_to_describe(classes, background)
    console = make_console()
    journal_path = args.out.with_name(f"{args.out.name}.journal.jsonl")
    # a journal next to the file means that a forced run was interrupted, so the file must be replaced
    if args.out.exists() and not args.force and not journal_path.exists():
        try:
            if task.sentences:
                read_class_prompts(args.out, classes)
            else:
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
    if task.sentences:
        write_json(args.out, {name: journal.texts[name].splitlines() for name in names})
    else:
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
