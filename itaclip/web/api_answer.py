"""From a result to the body of an answer."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np

from itaclip import figures
from itaclip.result import Result
from itaclip.web.view import view

JSON, PNG = "application/json", "image/png"


def rendered(result: Result, output: str, upload: bytes, warnings: list[str], seconds: float) -> tuple[bytes, str]:
    """The body of an answer and its content type.

    Args:
        result: what to render.
        output: a name of `itaclip.web.api_request.OUTPUTS`.
        upload: content of the image file that the client sent.
        warnings: for the client; only "json" and "view" carry them.
        seconds: of computing.
    """
    if output == "mask":
        return mask_png(result), PNG
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
        content = described(result) | {"warnings": warnings, "seconds": round(seconds, 3)}
        if output == "view":
            content |= view(result, upload)
    return json.dumps(content, ensure_ascii=False).encode(), JSON


def described(result: Result) -> dict[str, Any]:
    """Size, classes with colour, share and mean score, and the mask as a PNG in base64."""
    height, width = result.labels.shape
    scores = {entry["label"]: entry["score"] for entry in result.to_hf()}
    classes = [
        {
            "label": label, "name": name, "color": [int(value) for value in color],
            "area": result.areas.get(name, 0.0), "score": scores.get(name),
        }
        for label, (name, color) in enumerate(zip(result.names, result.colors, strict=True))
    ]  # fmt: skip
    mask = base64.b64encode(mask_png(result)).decode("ascii")
    return {"height": height, "width": width, "classes": classes, "mask": mask}


def mask_png(result: Result) -> bytes:
    """Class ids as a PNG with a palette, 16-bit grey above 256 classes."""
    buffer = io.BytesIO()
    figures.save_mask(np.ascontiguousarray(result.labels), result.colors, buffer)
    return buffer.getvalue()
