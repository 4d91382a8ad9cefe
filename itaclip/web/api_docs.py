"""The API's own documentation: its part of the OpenAPI schema, and a page without external resources."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from itaclip.web.api_request import offered_outputs
from itaclip.web.limits import Limits

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #8882; border-radius: 4px; padding: 0 .25em; }
pre { padding: .8em; overflow-x: auto; } table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .25em 1em .25em 0; border-bottom: 1px solid #8884; }
:root { color-scheme: light dark; }
"""

_EXAMPLE = """curl -F image=@photo.jpg --form-string 'classes=cat; sofa, couch' ADDRESS/v1/segment
curl -F image=@photo.jpg --form-string 'classes=cat; sofa, couch' -F output=overlay -o overlay.png ADDRESS/v1/segment"""


def describe(limits: Limits, token: bool) -> dict[str, Any]:
    """Keyword arguments of the route that segments.

    Args:
        limits: shown to readers.
        token: whether clients must send one.
    """
    texts: dict[str, Any] = {
        "name": {"type": "string", "description": "Name of the image, for messages and COCO."},
        "classes": {
            "description": "Classes separated by semicolons or lines, synonyms by commas; in JSON also a list. "
            "Optional if the server has classes of its own.",
            "example": "cat, kitten; sofa, couch", "type": "string",
        },
        "background": {
            "type": "string",
            "description": '"general" (default): pixels of no class become class 0. "none": every pixel gets a class. '
            "Anything else: words for the background. In JSON also true, false or a list.",
        },
        "definitions": {"type": "string", "description": "Lines `name >=text`; in JSON also an object."},
        "method": {"type": "string", "description": "One of the methods listed by /v1/info."},
        "refine": {"type": "boolean", "description": "Refine along edges (PAMR)."},
        "correct": {"type": "boolean", "description": "One label per image region (map correction)."},
        "views": {"type": "boolean", "description": "Read five views of every window."},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "description": "Lower scores become background."},
        "output": {
            "type": "string", "enum": offered_outputs(), "default": "json",
            "description": '"mask" and "overlay" are PNG images; the others are JSON. "view" is for the web page.',
        },
    }  # fmt: skip
    anything = {
        name: {key: value for key, value in field.items() if key != "type"}
        if name in ("classes", "background", "definitions")
        else field
        for name, field in texts.items()
    }
    sent = {"type": "string", "format": "binary", "description": f"At most {limits.upload_mb:g} MB."}
    encoded = {"type": "string", "format": "byte", "description": f"Base64; at most {limits.upload_mb:g} MB."}
    problem = {"application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}
    statuses = {
        400: "Malformed multipart or JSON", 408: "The request arrived too slowly", 411: "No Content-Length",
        413: "Too large", 415: "Unsupported content type", 422: "A bad image, class list or setting",
        429: "The queue is full; see Retry-After", 503: "The server is stopping", 504: "Computing took too long",
    } | ({401: "Missing or wrong token"} if token else {})  # fmt: skip
    label = {"label": {"type": "integer"}, "name": {"type": "string"},
             "color": {"type": "array", "items": {"type": "integer"}}, "area": {"type": "number"},
             "score": {"type": ["number", "null"]}}  # fmt: skip
    found = {
        "type": "object",
        "properties": {
            "height": {"type": "integer"}, "width": {"type": "integer"},
            "classes": {"type": "array", "items": {"type": "object", "properties": label}},
            "mask": {"type": "string", "format": "byte", "description": "PNG of class numbers, base64."},
            "warnings": {"type": "array", "items": {"type": "string"}}, "seconds": {"type": "number"},
        },
    }  # fmt: skip
    responses: dict[int, Any] = {status: {"description": text, "content": problem} for status, text in statuses.items()}
    lines = {"type": "string", "description": "With Accept: application/x-ndjson: progress, line by line."}
    responses[200] = {
        "description": "The segmentation",
        "content": {"application/json": {"schema": found}, "image/png": {}, "application/x-ndjson": {"schema": lines}},
    }
    extra: dict[str, Any] = {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["image"], "properties": {"image": sent} | texts}
                },
                "application/json": {
                    "schema": {"type": "object", "required": ["image"], "properties": {"image": encoded} | anything}
                },
            },
        }
    }
    return {"summary": "Segment an image", "openapi_extra": extra, "responses": responses}


def docs_page(schema: Mapping[str, Any]) -> str:
    """The schema as a readable page without scripts."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{_text(route['summary'])}</p>")
            content = route.get("requestBody", {}).get("content", {})
            if "multipart/form-data" in content:
                parts.append(_table(content["multipart/form-data"]["schema"]["properties"]))
            answers = {status: answer["description"] for status, answer in sorted(route["responses"].items())}
            rows = "".join(
                f"<tr><td>{_text(status)}</td><td>{_text(text)}</td></tr>" for status, text in answers.items()
            )
            parts.append(f"<table><tr><th>Status</th><th>Meaning</th></tr>{rows}</table>")
    info = schema["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(info["title"])} API</title>'
        f"<style>{_STYLE}</style><h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f'<p>{_text(info["description"])} The schema: <a href="openapi.json">openapi.json</a>.</p>'
        f"<pre>{_text(_EXAMPLE)}</pre>{''.join(parts)}</html>"
    )


def _table(fields: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code></td><td>{_text(field.get('type', ''))}</td>"
        f"<td>{_text(field.get('description', ''))}"
        f"{' ' + _text(json.dumps(field['enum'])) if 'enum' in field else ''}</td></tr>"
        for name, field in fields.items()
    )
    return f"<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>{rows}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))
