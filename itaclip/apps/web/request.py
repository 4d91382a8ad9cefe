"""A request to segment an image: its fields as pydantic models, and how its body is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Annotated, Any, TypeAlias

from fastapi import UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from itaclip.apps.web.limits import Limits
from itaclip.apps.web.problems import BadRequestError
from itaclip.apps.web.response import offered_outputs
from itaclip.common.base64_text import decode_base64
from itaclip.core.text.background import AUTO
from itaclip.errors import ItaclipError, did_you_mean
from itaclip.vocabulary import split_classes, split_definitions

GENERAL, NONE = "general", "none"
"""Backgrounds: general contrast words, or a class for every pixel; `AUTO` chooses words. Other texts are words."""

_NO_IMAGE = "image: send a file (multipart) or base64 (JSON)."
_REPEATABLE = ("classes", "background")  # in a form: each value adds to the list
_OTHER_NAMES = {
    "image": ("file", "files", "photo", "picture", "img", "upload", "data", "input", "inputs", "url", "image_url"),
    "classes": ("labels", "candidate_labels", "names", "queries", "prompt", "prompts", "text", "words", "categories"),
    "name": ("filename", "file_name"),
    "output": ("format", "type", "response_format"),
}  # what other programs call the fields
_EXPECTED = {"bool": "true or false", "float": "a number in [0, 1]", "string": "a text"}  # by pydantic's type of error


# --- fields ------------------------------------------------------------------


def _from_text(field: str, value: Any) -> Any:
    """Read a text that holds a JSON list or object; return anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise ItaclipError(
            f"{field} = {value[:60]!r}: begins like JSON but is none. Write JSON with double quotes, "
            'such as ["sky", "house"], or a text such as "sky; house".'
        ) from None


def _lines(field: str, value: Any) -> list[str]:
    """Turn a text, or a list of texts or of lists of synonyms, into class lines."""
    value = _from_text(field, value)
    if isinstance(value, str):
        return split_classes(value)
    if isinstance(value, list):
        entries = [entry if isinstance(entry, list) else [entry] for entry in value]
        if all(isinstance(word, str) and not set(word) & set(";\n") for words in entries for word in words):
            return [", ".join(words) for words in entries]
    raise ItaclipError(f"{field} = {str(value)[:60]!r}: expected a text or a list of texts.")


def _classes(value: Any) -> list[str]:
    return _lines("classes", value)


def _background(value: Any) -> bool | str | list[str]:
    if value == AUTO:
        return AUTO
    if isinstance(value, bool) or value in (GENERAL, NONE, "true", "false"):
        return value in (True, GENERAL, "true")
    return [word for line in _lines("background", value) for word in split_words(line)]


def _definitions(value: Any) -> dict[str, str]:
    value = _from_text("definitions", value)
    if isinstance(value, str):
        return split_definitions(value.splitlines(), "definitions")
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise ItaclipError(f"definitions = {str(value)[:60]!r}: expected texts by class, or lines `name >=text`.")


_TextOrList: TypeAlias = str | list[str | list[str]]


def _image(value: Any) -> bytes:
    if not isinstance(value, str) or not value:
        raise ItaclipError(_NO_IMAGE)
    return decode_base64(value, "image")


def _output(value: str) -> str:
    if value not in offered_outputs():
        raise ItaclipError(f"output = {value[:60]!r}: expected one of {', '.join(offered_outputs())}.")
    return value


def file_name(path: str | None) -> str:
    """Return the last part of a client's path, for messages."""
    return PurePath(path or "").name[:200] or "image"


def _optional(description: str, **schema: Any) -> Any:
    """Declare a field that may be left out, but not null; its default depends on the server."""
    return Field(default_factory=lambda: None, description=description, **schema)


class SegmentFields(BaseModel):
    """The fields of every request but the image. Those that hold lists take JSON, or the same as text."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(file_name)] = _optional(
        "Name of the image, for messages and COCO; of a form, the file's name unless sent."
    )
    classes: Annotated[Any, PlainValidator(_classes, json_schema_input_type=_TextOrList)] = _optional(
        "Classes separated by semicolons or line breaks, synonyms by commas; or a JSON list of classes, each a text "
        "or a list of synonyms. Optional if the server has classes of its own.",
        examples=["cat, kitten; sofa, couch", ["cat", ["sofa", "couch"]]],
    )
    background: Annotated[Any, PlainValidator(_background, json_schema_input_type=bool | _TextOrList)] = _optional(
        '"general" (default) or true: pixels of no class become class 0, described by general words. "auto": the same '
        'with words chosen for the classes. "none" or false: every pixel gets a class. Anything else: words for the '
        "background."
    )
    definitions: Annotated[Any, PlainValidator(_definitions, json_schema_input_type=str | dict[str, str])] = _optional(
        "Lines `name >=text`, or a JSON object of texts by class."
    )
    method: str = _optional("One of the methods listed by /v1/info.")
    refine: bool = _optional("Refine along edges (PAMR).")
    correct: bool = _optional("One label per image region (map correction).")
    views: bool = _optional("Read five views of every window.")
    threshold: float = _optional("Pixels with lower scores become background.", ge=0, le=1)
    output: Annotated[str, AfterValidator(_output)] = Field(
        "json", json_schema_extra={"enum": list[Any](offered_outputs())},
        description='"mask" and "overlay" are PNG images; the others are JSON. "view" is for the web page.',
    )  # fmt: skip


class SegmentForm(SegmentFields):
    """A multipart form. `classes` and `background` may be repeated: each value adds to the list."""

    image: UploadFile = Field(description="The image file.")


class SegmentJson(SegmentFields):
    """A JSON object."""

    model_config = ConfigDict(strict=True)

    image: Annotated[Any, PlainValidator(_image, json_schema_input_type=str)] = Field(
        description="The image file in base64, or as a data URL.", json_schema_extra={"format": "byte"}
    )


FIELDS = ("image", *SegmentFields.model_fields)


def check_fields(sent: SegmentFields, image: bytes, own: bool, limits: Limits) -> None:
    """Check what concerns several fields, and whether the server has classes of its `own`.

    Raises:
        BadRequestError: no image, a file that is too large, no classes, or only their background or definitions.
    """
    if not image:
        raise BadRequestError(422, _NO_IMAGE)
    if len(image) > limits.upload_bytes:
        raise BadRequestError(413, f"Too large: at most {limits.upload_mb:g} MB are accepted.")
    if sent.classes is None:
        if not own:
            raise BadRequestError(422, 'classes: name them, such as "cat; sofa, couch".')
        for name in sorted({"background", "definitions"} & sent.model_fields_set):
            raise BadRequestError(422, f"{name}: the server's classes have their own; send classes too.")


def split_words(text: str) -> list[str]:
    """Split a text into words at commas, semicolons and line breaks."""
    return [word.strip() for word in re.split("[,;\n]", text) if word.strip()]


# --- the body ----------------------------------------------------------------


class SegmentRoute(APIRoute):
    """A route for bodies of one content type; FastAPI itself tells routes apart by path and method only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Tell whether a request is for this route."""
        match, child = super().matches(scope)
        sent = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        expected = getattr(self.body_field and self.body_field.field_info, "media_type", sent)
        return (match, child) if match != Match.FULL or sent == expected else (Match.NONE, {})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, reading the body through `BoundedRequest`."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request.app.state.queue.check()  # before an image is sent in vain
            return await handler(BoundedRequest(request.scope, request.receive))

        return handle


class BoundedRequest(Request):
    """Reads bodies for FastAPI within the limits, and refuses what FastAPI would drop without a word.

    FastAPI's own reading has no limit on text, keeps the last of repeated fields and JSON keys,
    and takes empty fields for fields that were not sent.
    """

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Read the fields of a form, once each."""
        limits: Limits = self.app.state.limits
        try:
            form = await super().form(
                max_files=1, max_fields=len(FIELDS) + limits.words, max_part_size=4 * limits.characters
            )
        except HTTPException as error:
            if isinstance(error, BadRequestError):
                raise
            raise BadRequestError(400, f"Not multipart/form-data: {error.detail}") from None
        found: list[tuple[str, Any]] = []
        for name in form:
            values: list[Any] = form.getlist(name)
            if name in FIELDS and any(isinstance(value, str) == (name == "image") for value in values):
                raise BadRequestError(422, f"{name}: expected a {'file' if name == 'image' else 'text'}.")
            if name in _REPEATABLE and not any(values):
                raise BadRequestError(422, f"{name}: empty; name words, or leave the field out.")
            if name not in _REPEATABLE and len(values) > 1:
                raise BadRequestError(422, f"{name[:60]}: sent twice.")
            found.append((name, "\n".join(values) if name in _REPEATABLE else values[0]))
        _check_length(dict(found), limits)
        return FormData(found)

    async def json(self) -> Any:
        """Read the value of a JSON body."""
        try:
            found = json.loads(await self.body(), object_pairs_hook=_without_repeats)
            if isinstance(found, dict):
                _check_length(found, self.app.state.limits)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(400, f"Not JSON: {str(error)[:100]}.") from None
        return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequestError(422, f"{name[:60]}: sent twice.")
        found[name] = value
    return found


def _check_length(values: dict[str, Any], limits: Limits) -> None:
    """Refuse long texts before anything splits them; unknown fields are refused anyway."""
    length = sum(_length(values.get(name)) for name in FIELDS if name != "image")
    if length > limits.characters:
        raise BadRequestError(422, f"{length:,} characters of text; at most {limits.characters:,} are accepted.")


def _length(value: Any) -> int:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return sum(map(_length, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0


def explained(error: RequestValidationError) -> BadRequestError:
    """Explain what is wrong with the fields of a request, in the words of this server; unknown fields first."""
    first, *_ = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    field = str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    kind, cause = first["type"], first.get("ctx", {}).get("error")
    if kind == "extra_forbidden":
        usual = next((name for name, others in _OTHER_NAMES.items() if field.lower() in others), None)
        hint = f" Did you mean {usual!r}?" if usual else did_you_mean(field, FIELDS)
        return BadRequestError(422, f"unknown field {field[:60]!r}.{hint} Fields: {', '.join(FIELDS)}.")
    if isinstance(cause, ItaclipError):
        return BadRequestError(422, str(cause))
    if kind == "missing":
        return BadRequestError(422, _NO_IMAGE) if field else BadRequestError(400, "Not JSON: the body is empty.")
    if not field:
        return BadRequestError(422, "Expected a JSON object.")
    expected = _EXPECTED.get(kind.partition("_")[0], _EXPECTED["float"])
    return BadRequestError(422, f"{field} = {str(first['input'])[:60]!r}: expected {expected}.")
