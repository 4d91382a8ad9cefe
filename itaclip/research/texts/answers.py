"""Requirements for auxiliary texts, in the answers of language models and in finished files."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WORDS = 50

# How chat models begin when they address the user instead of answering.
_PREAMBLE = re.compile(
    r"(sure|certainly|absolutely|of course|ok|okay|great|yes|no problem|alright)\s*[,.!:]"
    r"|here('s|\s+is|\s+are|\s+you)\b"
    r"|(i|i'm|i'd|i'll|i've|as an ai|as a language model|my apologies|sorry|let me)\s"
    r"|(the\s+)?(definition|synonym|answer|output|response|one-word synonym)\b[^:]{0,60}(:|\bis\b)",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_BLANKS = str.maketrans(dict.fromkeys("\u00a0\u2009\u202f", " "))
_BULLET = re.compile(r"^\s*(\d+\s*[.):]|[-*\u2022])\s+")
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """The question that a language model is asked for every class.

    Attributes:
        name: "definition", "synonym" or "prompt"; part of file names.
        prompt: prompt with ``{name}`` for the class.
        one_word: whether the answer must be a single word.
        sentences: number of sentences, one per line; 0 for a single text.
    """

    name: str
    prompt: str
    one_word: bool
    sentences: int = 0


DEFINITION = Task(
    "definition",
    'Define the word "{name}" in one sentence of at most 50 words that tells what it looks like. '
    "Answer with the definition and nothing else: no introduction, no quotation marks, no line break.",
    one_word=False,
)
SYNONYM = Task(
    "synonym",
    'Give exactly one word that is a synonym of "{name}", or the word closest in meaning if there is none. '
    "Answer with that word and nothing else: no sentence, no explanation, no punctuation.",
    one_word=True,
)
TASKS = (DEFINITION, SYNONYM)
"""Auxiliary texts, one per class."""

PROMPT = Task(
    "prompt",
    'Write 15 different short sentences that describe photos showing "{name}": its looks, parts, surroundings and '
    'typical scenes. Every sentence contains the words "{name}". Answer with one sentence per line and nothing else: '
    "no introduction, no numbers, no quotation marks.",
    one_word=False,
    sentences=15,
)
"""Class-biased prompts of one word (`itaclip.core.text.class_prompts`)."""


def tidy(answer: str, task: Task) -> str:
    """Strip whitespace, enclosing quotes, the thoughts of a reasoning model, and the full stop after a single word."""
    text = _THOUGHTS.sub("", answer).translate(_BLANKS).strip()
    if task.sentences:
        return "\n".join(_sentences(text))
    if task.one_word:
        text = text.rstrip(".!")
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text.rstrip(".!").lower() if task.one_word else text


def find_problem(text: str, name: str, task: Task) -> str | None:
    """Find the problem with a text for the class `name`, as a phrase after "the answer"; None if there is none."""
    words = text.split()
    if not words:
        return "is empty"
    if task.sentences:
        return _find_problem_of_sentences(text.splitlines(), name, task.sentences)
    if len(text.splitlines()) > 1:
        return "has more than one line"
    if not text.isprintable():
        return "contains non-printable characters"
    if ">=" in text:
        return "contains '>=', which separates names from texts"
    if _plain(text) == _plain(name):
        return "only repeats the name"
    if _PREAMBLE.match(text) or text.endswith(":"):
        return "begins with a preamble"
    if task.one_word:
        if len(words) > 1:
            return f"has {len(words)} words instead of one"
        return None if re.fullmatch(r"[^\W\d_]+(['\u2019-][^\W\d_]+)*", text) else "is not a word"
    if re.match(rf"\W*{re.escape(name)}\W*\s*[:=\u2013\u2014-]\s", text, re.IGNORECASE):
        return "starts by repeating the name"
    if len(words) > MAX_WORDS:
        return f"has {len(words)} words; the limit is {MAX_WORDS}"
    return None


def find_problem_of_sentence(sentence: str, name: str) -> str | None:
    """Find the problem with a class-biased prompt of the word `name`, as a phrase after "it"; None if there is none."""
    words = sentence.split()
    if not sentence.isprintable():
        return "contains non-printable characters"
    if _PREAMBLE.match(sentence) or sentence.endswith(":"):
        return "begins with a preamble"
    if len(words) > MAX_WORDS:
        return f"has {len(words)} words; the limit is {MAX_WORDS}"
    return None if _plain(name) in _plain(sentence) else "does not contain the word"


def _find_problem_of_sentences(sentences: list[str], name: str, count: int) -> str | None:
    if len(sentences) != count:
        return f"has {len(sentences)} lines instead of {count} sentences"
    if len({_plain(sentence) for sentence in sentences}) < count:
        return "repeats a sentence"
    for sentence in sentences:
        if wrong := find_problem_of_sentence(sentence, name):
            return f"has a sentence that {wrong}"
    return None


def _sentences(text: str) -> list[str]:
    """Split an answer into sentences, without numbers, bullets, quotes and an introduction that ends with a colon."""
    lines = [_BULLET.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    return [line[1:-1] if len(line) > 1 and _QUOTES.get(line[0]) == line[-1] else line for line in lines]


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())
