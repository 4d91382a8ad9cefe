"""Which colour or value of a mask stands for which class: built-in tables, and files that people have."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from itaclip.errors import ItaclipError
from itaclip.research.preparation.masks import DEEP_IGNORED, IGNORED, Color, ignored_label

BUILT_IN = ("voc", "cityscapes", "ade20k", "uavid", "udd5", "binary")
"""Names that `--colors` takes besides files."""

IGNORED_NAMES = ("void", "ignore", "ignored", "__ignore__")
"""Classes of a file whose pixels are ignored, unless `--ignore` names others."""

_BACKGROUND = "background"

_VOC_VOID = (224, 224, 192)
_MOVING_CAR, _UAVID_CAR = (64, 0, 128), 3  # its colour, and the id of static cars, whose class it shares

Entry: TypeAlias = tuple[str, Color]
"""Name and colour of a class."""


@dataclass(frozen=True)
class Coding:
    """What stands for which class.

    Attributes:
        names: class names in the order of their ids; () if nobody knows them.
        ids: id by colour, or by stored value.
        labels: what each of them means, for messages.
        by_value: whether stored values count (grey values or palette indices) instead of colours.
        first: id of the first class; 1 where 0 means "not labelled".
        ambiguous: colours that two classes share, with both names.
    """

    names: tuple[str, ...]
    ids: dict[Color, int] | dict[int, int]
    labels: dict[Color, str] | dict[int, str]
    by_value: bool = False
    first: int = 0
    ambiguous: dict[Color, str] = field(default_factory=dict)

    @property
    def deep(self) -> bool:
        """Whether the ids need 16 bits: more than 255 classes, or an id above 255."""
        return len(self.names) > IGNORED or max(self.ids.values(), default=0) > IGNORED

    @property
    def ignored(self) -> int:
        """Id of ignored pixels: 255, or 65535 in 16 bits."""
        return DEEP_IGNORED if self.deep else IGNORED

    def as_json(self) -> dict[str, Any]:
        """Describe the coding as it is kept beside the masks."""
        return {
            "by": "value" if self.by_value else "colour",
            "ids": {str(key): int(number) for key, number in self.ids.items()},
            "classes": list(self.names),
        }


def coding_of(colors: str, ignore: Sequence[str] = IGNORED_NAMES) -> Coding:
    """Find the coding that `--colors` names: one of `BUILT_IN`, or a file.

    Args:
        colors: a name or a path.
        ignore: classes of a file whose pixels become 255.

    Raises:
        ItaclipError: neither a known name nor a file, or a file in none of the three formats.
    """
    if colors == "binary":
        return Coding((), {(0, 0, 0): 0, (255, 255, 255): 1}, {(0, 0, 0): "0", (255, 255, 255): "255"})
    if colors in BUILT_IN:
        return _benchmark(colors)
    path = Path(colors)
    if not path.is_file():
        raise ItaclipError(f"--colors {colors}: no such file; expected {', '.join(BUILT_IN)}, or a file of colours.")
    return _coding(read_entries(path), path, ignore)


def value_coding(pairs: Sequence[str]) -> Coding:
    """Make the coding of `--values 0=0 255=1`.

    Raises:
        ItaclipError: not VALUE=ID, or a value given twice.
    """
    ids: dict[int, int] = {}
    for pair in pairs:
        found = re.fullmatch(r"(\d{1,5})=(\d{1,5})", pair)
        if not found or max(map(int, found.groups())) > DEEP_IGNORED:
            raise ItaclipError(f"--values {pair}: expected VALUE=ID, such as 255=1, both 0..65535.")
        value, number = map(int, found.groups())
        if value in ids:
            raise ItaclipError(f"--values {pair}: the value {value} already has the id {ids[value]}.")
        ids[value] = number
    return Coding((), ids, {value: str(value) for value in ids}, by_value=True)


def _benchmark(name: str) -> Coding:
    """Return the colours in which a benchmark's masks are published, and its own ids."""
    from mmseg.registry import DATASETS

    import itaclip.research.openmmlab  # noqa: F401 - registers them

    types = {
        "voc": "PascalVOCDataset", "cityscapes": "CityscapesDataset", "ade20k": "ADE20KDataset",
        "uavid": "UAVidDataset", "udd5": "UDD5Dataset",
    }  # fmt: skip
    kind = DATASETS.get(types[name])
    first = 1 if name == "ade20k" else 0
    names = tuple(kind.METAINFO["classes"])
    ids: dict[Color, int] = {}
    labels: dict[Color, str] = {}
    ambiguous: dict[Color, str] = {}
    for number, (label, (red, green, blue)) in enumerate(zip(names, kind.METAINFO["palette"], strict=True), first):
        color = (red, green, blue)
        if color in labels:
            ambiguous[color] = f"{labels[color]} or {label}"
        ids[color], labels[color] = number, label
    for color in ambiguous:
        del ids[color], labels[color]
    others: dict[Color, tuple[str, int]] = {
        "voc": {_VOC_VOID: ("void", IGNORED)},
        "cityscapes": dict.fromkeys(_CITYSCAPES_OTHERS, ("not evaluated", IGNORED)),
        "ade20k": {(0, 0, 0): ("not labelled", 0)},
        "uavid": {_MOVING_CAR: ("moving car", _UAVID_CAR)},
        "udd5": {},
    }[name]
    for color, (label, number) in others.items():
        ids[color], labels[color] = number, label
    return Coding(names, ids, labels, first=first, ambiguous=ambiguous)


# static, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan, trailer
_CITYSCAPES_OTHERS: tuple[Color, ...] = (
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
    (150, 120, 90), (153, 153, 153), (0, 0, 90), (0, 0, 110),
)  # fmt: skip


def _coding(entries: Sequence[Entry], path: Path, ignore: Sequence[str]) -> Coding:
    seen: dict[Color, str] = {}
    for name, color in entries:
        if color in seen:
            raise ItaclipError(f"{path}: {seen[color]!r} and {name!r} both have the colour {_shown(color)}.")
        if name in seen.values():
            raise ItaclipError(f"{path}: {name!r} occurs twice.")
        seen[color] = name
    hidden = {name.lower() for name in ignore}
    classes = [entry for entry in entries if entry[0].lower() not in hidden]
    classes.sort(key=lambda entry: entry[0].lower() != _BACKGROUND)  # stable: the others keep their order
    if not classes:
        raise ItaclipError(f"{path}: contains no class.")
    if len(classes) > DEEP_IGNORED:
        raise ItaclipError(f"{path}: {len(classes)} classes; at most {DEEP_IGNORED:,} are possible.")
    ignored = ignored_label(len(classes))
    ids = {color: number for number, (_, color) in enumerate(classes)}
    ids |= {color: ignored for name, color in entries if name.lower() in hidden}
    return Coding(tuple(name for name, _ in classes), ids, seen)


def _shown(color: Color) -> str:
    return ",".join(map(str, color))


# --- files -------------------------------------------------------------------


def read_entries(path: Path) -> list[Entry]:
    """Read names and colours of a file, in its order. Three formats are known:

    * ``labelmap.txt`` of CVAT and Datumaro: ``name:r,g,b:parts:actions``. If no line has a colour, the
      masks were painted in VOC's colours in this order, as Datumaro does;
    * ``r g b name`` on every line, also with commas;
    * JSON: ``{"name": [r, g, b]}``, or a list of objects with ``name`` and ``color``, as CVAT's constructor
      of labels shows. A colour may be ``"#rrggbb"``.

    Lines that start with ``#`` are comments.

    Raises:
        ItaclipError: none of these; the message names the line or the entry.
    """
    from itaclip.core.text.class_names import read_lines  # brings PyTorch, which worker processes do not need

    lines = read_lines(path)
    if "".join(lines).lstrip()[:1] in ("{", "["):
        return _from_json(path, "\n".join(lines))
    entries: list[tuple[str, Color | None]] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            entries.append(_from_line(line.strip(), f"{path}, line {number}"))
    if not entries:
        raise ItaclipError(f"{path}: contains no colour; see docs/custom-dataset.md for the formats.")
    if all(color is None for _, color in entries):
        return [(name, voc_color(number)) for number, (name, _) in enumerate(entries)]
    complete = [(name, color) for name, color in entries if color is not None]
    if len(complete) < len(entries):
        name = next(name for name, color in entries if color is None)
        raise ItaclipError(f"{path}: {name!r} has no colour, but other classes have one; write it after the name.")
    return complete


def voc_color(number: int) -> Color:
    """Return the colour of an id in Pascal VOC's devkit: three bits of the id at a time, highest first.

    Args:
        number: 0..255.
    """
    channels = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= (number >> channel & 1) << shift
        number >>= 3
    return channels[0], channels[1], channels[2]


def _from_line(line: str, where: str) -> tuple[str, Color | None]:
    name, *rest = line.split(":")
    if (rest and not line[0].isdigit()) or len(rest) == 3:  # name:r,g,b:parts:actions
        if not name.strip() or len(rest) > 3:
            raise ItaclipError(f"{where}: {line!r}; expected name:r,g,b:parts:actions.")
        return name.strip(), _color(rest[0].split(","), where) if rest[0].strip() else None
    found = re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)", line)
    if not found:
        raise ItaclipError(f"{where}: {line!r}; expected 'r g b name' or 'name:r,g,b:parts:actions'.")
    return found[4].strip(), _color(found.groups()[:3], where)


def _from_json(path: Path, text: str) -> list[Entry]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ItaclipError(f"{path}: {next(n for n in names if names.count(n) > 1)!r} occurs twice.")
        return found

    try:
        content = json.loads(text, object_pairs_hook=distinct)
    except ItaclipError:
        raise
    except (ValueError, RecursionError) as error:
        raise ItaclipError(f"{path}: cannot be read as JSON ({error}).") from error
    pairs: list[tuple[Any, Any]]
    if isinstance(content, dict):
        pairs = list(content.items())
    else:
        pairs = [(e.get("name"), e.get("color")) if isinstance(e, dict) else (None, None) for e in content]
    entries = []
    for number, (name, value) in enumerate(pairs):
        where = f"{path}, entry {number}"
        if not isinstance(name, str) or not name.strip():
            raise ItaclipError(f'{where}: expected {{"name": [r, g, b]}} or a list of objects with name and color.')
        entries.append((name.strip(), _json_color(value, f"{where} ({name})")))
    if not entries:
        raise ItaclipError(f"{path}: contains no colour; see docs/custom-dataset.md for the formats.")
    return entries


def _json_color(value: Any, where: str) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and all(type(part) is int for part in value):
        return _color([str(part) for part in value], where)
    raise ItaclipError(f'{where}: colour {value!r}; expected [r, g, b] or "#rrggbb".')


def _color(parts: Sequence[str], where: str) -> Color:
    values = [int(part) if re.fullmatch(r"\s*\d{1,3}\s*", part) else -1 for part in parts]
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise ItaclipError(f"{where}: colour {','.join(parts)!r}; expected three numbers 0..255.")
    return values[0], values[1], values[2]
