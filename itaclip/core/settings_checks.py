"""What makes settings valid: types, ranges, and what goes together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.encoder import DTYPES
from itaclip.core.engines import ENGINES, OPENVINO_DTYPES
from itaclip.core.methods import METHODS, WholeImageMethod
from itaclip.core.text.templates import TEMPLATE_SETS
from itaclip.errors import ItaclipError

if TYPE_CHECKING:
    from itaclip.core.settings import Settings

PRECISIONS = (*DTYPES, "int8", "auto")

_SHARES = ("img_eng_coefficient", "def_coefficient", "prob_thd", "peak_thd", "tolerance", "agreement")


def as_pairs(options: object) -> tuple[tuple[str, Any], ...]:
    """Turn options of a method, a mapping or pairs, into sorted pairs of name and value.

    Raises:
        ItaclipError: neither.
    """
    if isinstance(options, Mapping):
        pairs = ((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items())
        options = tuple(sorted(pairs, key=lambda pair: str(pair[0])))
    if isinstance(options, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in options
    ):
        return options
    raise ItaclipError(f"method_options = {options!r}: expected a mapping from names to values.")


def check_types(settings: Settings) -> None:
    """Check that every value has the type of its field.

    Raises:
        ItaclipError: one has another; the message shows it.
    """
    kind: Any = type(settings)  # `Any`: mypy takes a dataclass with a hash for unhashable
    for name, hint in _hints(kind).items():
        if name != "method_options" and not _fits(getattr(settings, name), hint):
            raise ItaclipError(f"{name} = {getattr(settings, name)!r}: expected {_described(hint)}.")


def check_values(settings: Settings) -> None:
    """Check ranges, and then what goes together, of values that have the right types.

    Raises:
        ItaclipError: a value is out of range or contradicts another; the message shows it.
    """
    for rules in (_ranges, _combinations):
        for name, expected in rules(settings):
            raise ItaclipError(f"{name} = {getattr(settings, name)!r}: expected {expected}.")


def _ranges(s: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings that are out of range, each with what was expected."""
    for name in _SHARES:
        if not 0 <= getattr(s, name) <= 1:
            yield name, "in [0, 1]"
    if s.area_thd is not None and not 0 <= s.area_thd <= 1:
        yield "area_thd", "None or in [0, 1]"
    if s.alias_temperature is not None and not 0 < s.alias_temperature < inf:
        yield "alias_temperature", "None, or positive and finite"
    for name in ("blur_sigma", "logit_scale", "alias_sharpness"):
        if not 0 < getattr(s, name) < inf:
            yield name, "positive and finite"
    if s.blur_kernel % 2 != 1 or s.blur_kernel < 1:
        yield "blur_kernel", "odd and positive"
    if s.slide_crop < 0:
        yield "slide_crop", "a number of pixels, or 0 for the whole image"
    if s.slide_stride < 1:
        yield "slide_stride", "a positive number of pixels"
    if s.pamr_steps < 0:
        yield "pamr_steps", "0 or more"
    if s.shortlist is not None and s.shortlist < 1:
        yield "shortlist", "None or a positive number of classes"
    if s.batch_crops is not None and s.batch_crops < 1:
        yield "batch_crops", "None or positive"
    names = {"method": (*METHODS, *CONCEPTS), "dtype": PRECISIONS, "engine": ENGINES, "templates": tuple(TEMPLATE_SETS)}
    for name, known in names.items():
        if getattr(s, name) not in known:
            yield name, f"one of {', '.join(known)}"


def _combinations(s: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings that contradict others, each with what was expected."""
    if not s.attn_self and s.attention is not None:
        yield "attention", "None where attn_self is False"
    if s.slide_crop and s.slide_stride > s.slide_crop:
        yield "slide_stride", f"at most slide_crop ({s.slide_crop}), or pixels between windows are never seen"
    if s.tolerance and not s.img_engineering:
        yield "tolerance", "0 without image engineering: one view is read"
    if s.alias_temperature is not None and s.tolerance:
        yield "alias_temperature", "None with tolerance, which compares the labels of single rounds"
    if s.alias_temperature is not None and (s.method in CONCEPTS or METHODS[s.method].returns_logits):
        yield "alias_temperature", f"None with method = {s.method!r}, whose patches have no features in the joint space"
    if s.tolerance and (s.method in CONCEPTS or isinstance(METHODS[s.method], WholeImageMethod)):
        yield "tolerance", f"0 with method = {s.method!r}, which does not read windows one by one"
    if s.pamr_steps and (not s.pamr_stride or min(s.pamr_stride) < 1):
        yield "pamr_stride", "one or more positive dilations"
    if s.engine == "torch" and s.dtype == "int8":
        yield "dtype", "fp32, bf16 or fp16 with engine = 'torch'; int8 runs with engine = 'openvino'"
    if s.engine == "openvino" and s.dtype not in (*OPENVINO_DTYPES, "auto"):
        yield "dtype", f"{', '.join(OPENVINO_DTYPES)} or auto with engine = 'openvino'"
    if s.dtype == "auto" and s.method in CONCEPTS:
        yield "dtype", f"{', '.join(DTYPES)} with method = {s.method!r}"
    if s.compile and s.dtype == "auto":
        yield "compile", "False with dtype = 'auto'"
    if s.compile and s.engine != "torch":
        yield "compile", "False with another engine than torch"


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    """Tell whether a value has the type of a field; integers count as floats, yes and no as neither."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if get_args(hint):
        return any(_fits(value, option) for option in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float)) if hint is float else isinstance(value, hint)


def _described(hint: Any) -> str:
    """Write a type as a user would name it: "None, end or centre", "bool", "tuple of int"."""
    names: list[str] = []
    for option in get_args(hint) if get_origin(hint) not in (None, Literal, tuple) else (hint,):
        if get_origin(option) is Literal:
            names += get_args(option)
        elif get_origin(option) is tuple:
            names.append(f"tuple of {get_args(option)[0].__name__}")
        else:
            names.insert(0, "None") if option is NoneType else names.append(option.__name__)
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
