"""From a request to a form: multipart or JSON, checked field by field."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from itaclip.core.settings import Settings
from itaclip.errors import did_you_mean
from itaclip.segmenter import Segmenter
from itaclip.text.auxiliary import SEPARATOR
from itaclip.vocabulary import Vocabulary
from itaclip.web.answer import GENERAL, NONE, OWN, Form, has_coco, words_of
from itaclip.web.limits import Limits

OUTPUTS = ("json", "mask", "overlay", "geojson", "label_studio", "coco", "view")
"""Kinds of answers: JSON with the mask, a PNG, a format of `itaclip.Result`, or what the page draws."""

FIELDS = ("image", "name", "classes", "background", "definitions", "method", "refine", "correct", "views",
          "threshold", "output")  # fmt: skip

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class BadRequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status of the answer.
        message: for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def offered_outputs() -> list[str]:
    """`OUTPUTS`, without those that need a package that is not installed."""
    return [name for name in OUTPUTS if name != "coco" or has_coco()]


def defaults(settings: Settings) -> dict[str, Any]:
    """Values of the fields that a request leaves out."""
    return {
        "background": GENERAL, "method": settings.method, "refine": settings.pamr_steps > 0,
        "correct": settings.map_correction, "views": settings.img_engineering, "threshold": settings.prob_thd,
        "output": "json",
    }  # fmt: skip


def own_classes(vocabulary: Vocabulary | None) -> dict[str, str] | None:
    """The server's own classes, background and definitions as a request would send them; None without any."""
    if vocabulary is None:
        return None
    classes, background, own_words, definitions = words_of(vocabulary)
    return {"classes": classes, "background": own_words or background, "definitions": definitions}


async def read_form(request: Request, segmenter: Segmenter, limits: Limits) -> tuple[Form, str]:
    """The form in a request, and the output that it asks for.

    Raises:
        BadRequestError: an unknown content type, content that cannot be parsed, or a field that
            is missing, unknown or of the wrong type.
        ItaclipError: a bad value.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        values = await _read_multipart(request, limits)
    elif kind == "application/json":
        values = _from_json(await request.body())
    else:
        raise BadRequestError(415, "Send multipart/form-data or application/json.")
    for name in values:
        if name not in FIELDS:
            raise BadRequestError(422, f"unknown field {name[:60]!r}.{did_you_mean(name, FIELDS)} "
                                       f"Fields: {', '.join(FIELDS)}.")  # fmt: skip
    image, name = values.pop("image", None), values.pop("name", None)
    if not isinstance(image, bytes) or not image:
        raise BadRequestError(422, "image: send a file (multipart) or base64 (JSON).")
    if name is not None and not isinstance(name, str):
        raise BadRequestError(422, f"name = {str(name)[:60]!r}: expected a str.")
    output = values.pop("output", "json")
    if output not in offered_outputs():
        raise BadRequestError(422, f"output = {str(output)[:60]!r}: expected one of {', '.join(offered_outputs())}.")
    fields = _as_form(values, segmenter)
    return Form.checked(image, PurePath(name or "image").name[:200] or "image", limits, **fields), output


def _as_form(values: Mapping[str, Any], segmenter: Segmenter) -> dict[str, Any]:
    """A request's values as fields of `Form`; a server with classes of its own fills them in."""
    known = defaults(segmenter.settings)
    fields = {name: values.get(name, known[name]) for name in ("method", "refine", "correct", "views", "threshold")}
    if "classes" not in values and segmenter.vocabulary is not None:
        for name in ("background", "definitions"):
            if name in values:
                raise BadRequestError(422, f"{name}: the server's classes have their own; send classes too.")
        classes, background, own_words, definitions = words_of(segmenter.vocabulary)
        return fields | dict(classes=classes, background=background, own_words=own_words, definitions=definitions)
    if "classes" not in values:
        raise BadRequestError(422, 'classes: name them, such as "cat; sofa, couch".')
    background, own_words = _background(values.get("background", GENERAL))
    return fields | {
        "classes": _joined(values["classes"], "classes"), "background": background, "own_words": own_words,
        "definitions": _definitions(values.get("definitions", "")),
    }  # fmt: skip


def _joined(value: Any, name: str) -> str:
    """A text, a list of texts, or a list of lists of synonyms, as one text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(entry, (str, list)) for entry in value):
        entries = [entry if isinstance(entry, list) else [entry] for entry in value]
        if all(isinstance(word, str) and not set(word) & set(";\n") for words in entries for word in words):
            return "\n".join(", ".join(words) for words in entries)
    raise BadRequestError(422, f"{name} = {str(value)[:60]!r}: expected a text or a list of texts.")


def _background(value: Any) -> tuple[str, str]:
    if value in (True, GENERAL):
        return GENERAL, ""
    if value in (False, NONE):
        return NONE, ""
    return OWN, _joined(value, "background")


def _definitions(value: Any) -> str:
    if isinstance(value, dict) and all(
        isinstance(text, str) and "\n" not in name + text for name, text in value.items()
    ):
        return "\n".join(f"{name} {SEPARATOR}{text}" for name, text in value.items())
    if isinstance(value, str):
        return value
    raise BadRequestError(422, f"definitions = {str(value)[:60]!r}: expected texts by class, or lines `name >=text`.")


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(400, f"Not JSON: {str(error)[:100]}.") from None
    if not isinstance(values, dict):
        raise BadRequestError(422, "Expected a JSON object.")
    if isinstance(values.get("image"), str):
        try:
            values["image"] = base64.b64decode(values["image"], validate=True)
        except (binascii.Error, ValueError):
            raise BadRequestError(422, "image: not base64.") from None
    return values


async def _read_multipart(request: Request, limits: Limits) -> dict[str, Any]:
    try:
        async with request.form(max_files=1, max_fields=len(FIELDS), max_part_size=4 * limits.characters) as form:
            values: dict[str, Any] = {}
            for name, value in form.multi_items():
                if name in values:
                    raise BadRequestError(422, f"{name[:60]}: sent twice.")
                if isinstance(value, UploadFile):
                    if name != "image":
                        raise BadRequestError(422, f"{name[:60]}: expected a text, not a file.")
                    values["image"] = await value.read()
                    values.setdefault("name", value.filename or "image")
                elif name == "image":
                    raise BadRequestError(422, "image: expected a file.")
                else:
                    values[name] = _read_text(name, value)
    except HTTPException as error:
        raise BadRequestError(400, f"Not multipart/form-data: {error.detail}") from None
    return values


def _read_text(name: str, text: str) -> Any:
    """Multipart forms hold only texts."""
    if name in ("refine", "correct", "views"):
        if text.lower() not in _WORDS:
            raise BadRequestError(422, f"{name} = {text[:60]!r}: expected true or false.")
        return _WORDS[text.lower()]
    if name == "threshold":
        try:
            return float(text)
        except ValueError:
            raise BadRequestError(422, f"threshold = {text[:60]!r}: expected a number.") from None
    return text
