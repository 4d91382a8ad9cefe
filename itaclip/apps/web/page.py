"""The web page: static files and example images. Everything else the page gets from the HTTP API."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from importlib.resources import files

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from itaclip.common.demo.dataset import class_lines, held_out_scene

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "api.js": ("api.js", "text/javascript"),
    "viewer.js": ("viewer.js", "text/javascript"),
    "zip.js": ("zip.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_SCENES = {"Street": 18, "Beach": 15, "Garden": 42, "Night": 22}  # numbers in the bundled demo data set


def routes() -> list[Route]:
    """Make the routes of the page. It loads nothing from other servers and keeps nothing on this one."""
    static = [_route(path, _static(name), media_type) for path, (name, media_type) in _FILES.items()]
    examples, listed = [], []
    for name, number in _SCENES.items():
        path = f"examples/{name.lower()}.jpg"
        image, classes = _example(number)
        examples.append(_route(path, image, "image/jpeg"))
        listed.append({"name": name, "image": path, "classes": "\n".join(classes), "background": class_lines()[0]})
    return [*static, *examples, _route("examples/list.json", json.dumps(listed).encode(), "application/json")]


def _route(path: str, content: bytes, media_type: str) -> Route:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(f"/{path}", answer, methods=["GET"])


def _static(name: str) -> bytes:
    return (files("itaclip.apps.web") / "static" / name).read_bytes()


@lru_cache
def _example(number: int) -> tuple[bytes, list[str]]:
    """Draw a scene of the demo data set as JPEG, and list the classes in it."""
    scene = held_out_scene(number)
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=95, subsampling=0)
    lines = class_lines()
    return buffer.getvalue(), [lines[label] for label in scene.classes() if label]
