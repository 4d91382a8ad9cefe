"""Other wordings of a data set's classes: how much of a score is owed to the words of its class file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from itaclip.common.shipped import configuration_folder
from itaclip.core.text import ClassNames, read_auxiliary_texts, read_class_names
from itaclip.core.text.background import AUTO, read_lexicon
from itaclip.core.text.class_names import BACKGROUND_NAME, plain_name
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.files import write_text

OFFICIAL, PLAIN, SYNONYMS, DISTRACTORS = "official", "plain", "synonyms", "distractors"
KINDS = (OFFICIAL, PLAIN, SYNONYMS, DISTRACTORS)

DISTRACTOR_COUNT = 50
"""Distractors where no number is given."""

_FORM = f"{'|'.join(KINDS)}, {DISTRACTORS}:N, each also with +{AUTO}"


@dataclass(frozen=True)
class Wording:
    """How an evaluation words its classes.

    Attributes:
        kind: "official", the class file; "plain", the first word of every class and "background" for the
            background; "synonyms", a word of every class that the class file does not have, and "background";
            "distractors", the class file and further classes that no image shows.
        distractors: number of those further classes.
        auto: whether the words of the background are chosen, see `itaclip.core.text.background`.
    """

    kind: str = OFFICIAL
    distractors: int = 0
    auto: bool = False


def parse_wording(text: str) -> Wording:
    """Read a value of ``--vocabulary``: ``official|plain|synonyms|distractors[:N]``, each also with ``+auto``.

    Raises:
        ItaclipError: something else.
    """
    found = re.fullmatch(rf"(\w+?)(?::(\d+))?(\+{AUTO})?", text)
    kind, count = (found[1], found[2]) if found else ("", None)
    if found is None or kind not in KINDS or (count is not None and (kind != DISTRACTORS or int(count) < 1)):
        raise ItaclipError(f"--vocabulary {text!r}: expected {_FORM}.{did_you_mean(kind or text, KINDS)}")
    number = 0 if kind != DISTRACTORS else int(count) if count else DISTRACTOR_COUNT
    return Wording(kind, number, found[3] is not None)


def apply_wording(config: Config, folder: Path, wording: Wording) -> None:
    """Change the classes of a configuration in place.

    Auxiliary texts stay, because they describe the classes, except with synonyms: the texts were written
    for the official words, and most contain them.

    Args:
        config: a complete configuration.
        folder: receives the class file if its words change.
        wording: the wording.

    Raises:
        ItaclipError: a bad class file, "auto" without a background, no file of synonyms, a synonym that is an
            official word, or more distractors than there are.
    """
    model = config.model
    background = bool(model.get("background", False))
    if wording.auto:
        if not background:
            raise ItaclipError(f"--vocabulary ...+{AUTO}: this data set has no background (model.background).")
        model.background_words = AUTO
    if wording.kind == OFFICIAL:
        return
    classes = read_class_names(model.name_path, background)
    if wording.kind == DISTRACTORS:
        model.distractors = distractors(classes, wording.distractors)
        return
    names: Sequence[str] = classes.names[background:]
    if wording.kind == SYNONYMS:
        names = synonyms(classes, background)
        model.auxiliary_text_path = None
    path = folder / f"{Path(model.name_path).stem}.{wording.kind}.txt"
    write_text(path, "\n".join([*[BACKGROUND_NAME] * background, *names]) + "\n")
    read_class_names(path, background)
    model.name_path = str(path)


def synonyms(classes: ClassNames, background: bool) -> tuple[str, ...]:
    """Read a synonym of every class except the background, none of them a word of the class file.

    The file is ``llm_texts/NAME_synonyms.txt`` for ``configs/cls_NAME.txt``, in the format of auxiliary texts.

    Raises:
        ItaclipError: there is no such file, it does not match the classes, or it repeats an official word.
    """
    stem = Path(classes.source).stem.removeprefix("cls_")
    name = f"{stem}_synonyms.txt"
    folders = [Path(classes.source).parent.parent / "llm_texts", configuration_folder().parent / "llm_texts"]
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise ItaclipError(
            f"--vocabulary {SYNONYMS}: {folders[0] / name} does not exist. Write a line `name >=synonym` for every "
            "class, in the order of the class file, without the background."
        )
    found = read_auxiliary_texts(path, classes, background)
    official = {plain_name(word) for word in classes.queries}
    for number, word in enumerate(found, 1):
        if plain_name(word) in official:
            raise ItaclipError(f"{path}, line {number}: {word!r} is a word of {classes.source}; name another synonym.")
    return found


def distractors(classes: ClassNames, count: int) -> tuple[str, ...]:
    """Take the first words of the shipped list that are no word of a class.

    Raises:
        ItaclipError: there are fewer.
    """
    words = {plain_name(word) for word in classes.queries}
    usable = [
        word for word in read_lexicon(configuration_folder() / "distractors.txt") if plain_name(word) not in words
    ]
    if count > len(usable):
        raise ItaclipError(f"--vocabulary {DISTRACTORS}:{count}: at most {len(usable)} are shipped for these classes.")
    return tuple(usable[:count])
