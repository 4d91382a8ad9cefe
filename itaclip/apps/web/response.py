"""What the server sends: the models of its answers, and a result as the body of one."""

from __future__ import annotations

import base64
import io
import json
from importlib.util import find_spec
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from itaclip.apps.web.view import view
from itaclip.common import figures
from itaclip.result import Result
from itaclip.vocabulary import Vocabulary

JSON, PNG = "application/json", "image/png"

OUTPUTS = ("json", "mask", "overlay", "geojson", "label_studio", "coco", "view")
"""Kinds of answers: JSON with the mask, a PNG, a format of `itaclip.Result`, or what the page draws."""


class FoundClass(BaseModel):
    """A class of the result; `score` is null if no pixel has it."""

    label: int
    name: str
    color: tuple[int, int, int]
    area: float = Field(description="Share of the image in [0, 1].")
    score: float | None = Field(description="Mean score of its pixels in [0, 1].")


class Segmentation(BaseModel):
    """Output "json"; the other outputs that are JSON have the formats of their names."""

    height: int
    width: int
    classes: list[FoundClass]
    mask: str = Field(description="PNG of class numbers, base64.", json_schema_extra={"format": "byte"})
    background_words: list[str] = Field(description="Words that describe the background; none without one.")
    background_choice: str = Field(description='Where these words come from; with "auto", which way it decided.')
    warnings: list[str]
    seconds: float = Field(description="Computing time.")


class Health(BaseModel):
    """`status` is "ok" or "stopping"."""

    status: str


class Info(BaseModel):
    """What the server offers."""

    version: str
    model: str
    methods: list[str]
    outputs: list[str]
    defaults: dict[str, Any] = Field(description="Values of the fields that a request leaves out.")
    classes: list[str] = Field(description="Names of the server's own classes, if any.")
    own: dict[str, str] | None = Field(description="The server's own classes as a request would send them.")
    limits: dict[str, float | int]
    waiting: int = Field(description="Requests in the queue.")


def has_coco() -> bool:
    """Tell whether pycocotools, which COCO's JSON needs, is installed."""
    return find_spec("pycocotools") is not None


def offered_outputs() -> list[str]:
    """Return `OUTPUTS`, without those that need a package that is not installed."""
    return [name for name in OUTPUTS if name != "coco" or has_coco()]


def rendered(
    result: Result, vocabulary: Vocabulary, output: str, upload: bytes, warnings: list[str], seconds: float
) -> tuple[bytes, str]:
    """Render the body of an answer, with its content type.

    Args:
        result: what to render.
        vocabulary: the classes; only "json" and "view" tell the words of the background.
        output: a name of `OUTPUTS`.
        upload: content of the image file that the client sent.
        warnings: for the client; only "json" and "view" carry them.
        seconds: of computing.
    """
    if output == "mask":
        return figures.mask_png(result.labels, result.colors), PNG
    if output == "overlay":
        buffer = io.BytesIO()
        result.overlay().save(buffer, "PNG")
        return buffer.getvalue(), PNG
    content: dict[str, Any]
    if output == "geojson":
        content = result.to_geojson()
    elif output == "label_studio":
        content = result.to_label_studio()
    elif output == "coco":
        content = result.to_coco()
    else:
        content = described(result, vocabulary, warnings, seconds).model_dump()
        if output == "view":
            content |= view(result, upload, has_coco())
    return json.dumps(content, ensure_ascii=False).encode(), JSON


def described(result: Result, vocabulary: Vocabulary, warnings: list[str], seconds: float) -> Segmentation:
    """Describe the result: size, classes with colour, share and mean score, mask as a PNG, words of the background."""
    height, width = result.labels.shape
    scores = {entry["label"]: entry["score"] for entry in result.to_hf()}
    classes = [
        FoundClass(label=label, name=name, color=color, area=result.areas.get(name, 0.0), score=scores.get(name))
        for label, (name, color) in enumerate(zip(result.names, np.asarray(result.colors).tolist(), strict=True))
    ]
    mask = base64.b64encode(figures.mask_png(result.labels, result.colors)).decode("ascii")
    return Segmentation(
        height=height, width=width, classes=classes, mask=mask, warnings=warnings, seconds=round(seconds, 3),
        background_words=list(vocabulary.background_words), background_choice=vocabulary.background_choice,
    )  # fmt: skip
