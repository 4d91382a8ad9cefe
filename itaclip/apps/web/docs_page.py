"""The OpenAPI schema as a page without scripts, which loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #8882; border-radius: 4px; padding: 0 .25em; }
pre { padding: .8em; overflow-x: auto; } table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .25em 1em .25em 0; border-bottom: 1px solid #8884; }
:root { color-scheme: light dark; }
"""

_EXAMPLE = """curl -F image=@photo.jpg --form-string 'classes=cat; sofa, couch' ADDRESS/v1/segment
curl -F image=@photo.jpg --form-string 'classes=cat; sofa, couch' -F output=overlay -o overlay.png ADDRESS/v1/segment"""


def docs_page(schema: Mapping[str, Any]) -> str:
    """Write the page of a schema."""
    sections, models = [], schema["components"]["schemas"]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            sections.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{_text(route['description'])}</p>"
            )
            content = route.get("requestBody", {}).get("content", {})
            if "multipart/form-data" in content:
                name = content["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
                sections.append(_table(models[name]["properties"]))
            answers = {status: answer["description"] for status, answer in sorted(route["responses"].items())}
            rows = "".join(
                f"<tr><td>{_text(status)}</td><td>{_text(text)}</td></tr>" for status, text in answers.items()
            )
            sections.append(f"<table><tr><th>Status</th><th>Meaning</th></tr>{rows}</table>")
    info = schema["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(info["title"])} API</title>'
        f"<style>{_STYLE}</style><h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f'<p>{_text(info["description"])} The schema: <a href="openapi.json">openapi.json</a>.</p>'
        f"<pre>{_text(_EXAMPLE)}</pre>{''.join(sections)}</html>"
    )


def _table(fields: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code></td><td>{_text(_types(field))}</td><td>{_text(field['description'])}"
        f"{' ' + _text(json.dumps(field['enum'])) if 'enum' in field else ''}</td></tr>"
        for name, field in fields.items()
    )
    return f"<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>{rows}</table>"


def _types(field: Mapping[str, Any]) -> str:
    kinds = [kind["type"] for kind in field.get("anyOf", [field])]
    return "file" if "binary" in json.dumps(field) else " or ".join(kinds)


def _text(value: Any) -> str:
    return html.escape(str(value))
