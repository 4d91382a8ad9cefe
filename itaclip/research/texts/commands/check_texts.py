"""The command line of `tools/check_texts.py`: check text files and class-biased prompts against their class files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from itaclip.common.console import make_console
from itaclip.core.text.auxiliary import read_auxiliary_texts
from itaclip.core.text.class_names import read_class_names
from itaclip.core.text.class_prompts import read_class_prompts
from itaclip.errors import ItaclipError
from itaclip.research.preparation.findings import Findings
from itaclip.research.texts.answers import TASKS, Task, find_problem, find_problem_of_sentence
from itaclip.research.texts.generation import WITH_BACKGROUND

PROBLEMS = 1
"""Exit status when a file cannot be used."""


def check_texts(names: Path, texts: Path, background: bool, task: Task | None) -> Findings:
    """Check one text file.

    Args:
        names: the class file.
        texts: its text file.
        background: whether class 0 is the background.
        task: kind of the texts, for remarks on their wording; None for no remarks.

    Returns:
        Remarks on texts that are usable but not as they should be.

    Raises:
        ItaclipError: the file cannot be used; the message names file and line.
    """
    classes = read_class_names(names, background)
    found = read_auxiliary_texts(texts, classes, background)
    remarks = Findings()
    if task is not None:
        for number, (name, text) in enumerate(zip(classes.names[background:], found, strict=True), 1):
            wrong = find_problem(text, name, task)
            if wrong:
                remarks.add(f"{task.name} that {wrong}", "Usable; reword it if you like.", f"{texts}, line {number}")
    return remarks


def check_prompts(names: Path, prompts: Path, background: bool) -> Findings:
    """Check a file of class-biased prompts.

    Args:
        names: the class file.
        prompts: the JSON file.
        background: whether class 0 is the background.

    Returns:
        Remarks: words without sentences, and sentences that are usable but not as they should be.

    Raises:
        ItaclipError: the file cannot be used.
    """
    classes = read_class_names(names, background)
    found = read_class_prompts(prompts, classes) or {}
    remarks = Findings()
    for word in dict.fromkeys(classes.queries):
        if word not in found:
            remarks.add("word without sentences", "It keeps the 80 templates.", f"{prompts}: {word}")
        for number, sentence in enumerate(found.get(word, ()), 1):
            if wrong := find_problem_of_sentence(sentence, word):
                remarks.add(f"sentence that {wrong}", "Usable; reword it if you like.", f"{prompts}: {word}, {number}")
    return remarks


def main(root: Path, arguments: Sequence[str] | None = None) -> int:
    """Check one text file or all shipped ones; returns the exit status.

    Args:
        root: the checkout, with ``configs`` and ``llm_texts``.
        arguments: command-line arguments; None uses those of the process.
    """
    options = argparse.ArgumentParser(
        prog="check_texts.py", description="Check text files against class files; without options, all shipped ones."
    )
    options.add_argument("--names", type=Path, help="class file")
    options.add_argument("--texts", type=Path, help="its text file, or its class-biased prompts (.json)")
    options.add_argument("--background", action="store_true", help="class 0 is the background and has no text")
    args = options.parse_args(arguments)
    if (args.names is None) != (args.texts is None) or (args.background and args.names is None):
        raise ItaclipError("--names and --texts go together, and --background with them.")
    files = [(args.names, args.texts, args.background)] if args.names else shipped(root)
    console = make_console()
    problems = 0
    for names, texts, background in files:
        task = next((task for task in TASKS if task.name in texts.name), None)
        try:
            if texts.suffix == ".json":
                remarks = check_prompts(names, texts, background)
            else:
                remarks = check_texts(names, texts, background, task)
        except ItaclipError as error:
            console.print(f"not usable: {error}")
            problems += 1
            continue
        console.print(f"{texts}: ok")
        if remarks:
            remarks.show(console, "remarks")
    return PROBLEMS if problems else 0


def shipped(root: Path) -> list[tuple[Path, Path, bool]]:
    """List class file, text file and background flag of every file in ``llm_texts``.

    Raises:
        ItaclipError: the folder has no text files.
    """
    files = []
    folder = root / "llm_texts"
    for texts in sorted([*folder.glob("*.txt"), *folder.glob("*_prompts.json")]):
        name = texts.stem.rpartition("_")[0]
        files.append((root / "configs" / f"cls_{name}.txt", texts, name in WITH_BACKGROUND))
    if not files:
        raise ItaclipError(f"{root / 'llm_texts'}: contains no text files.")
    return files
