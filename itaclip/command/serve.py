"""`itaclip serve`: a web page and an HTTP API for one's own images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from itaclip.command.options import add_model_options, make_segmenter
from itaclip.console import make_console
from itaclip.errors import ItaclipError
from itaclip.web.address import check_address
from itaclip.web.limits import Limits
from itaclip.web.line import Line

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from itaclip.segmenter import Segmenter

TOKEN = "ITACLIP_API_TOKEN"
"""Environment variable with the token that clients of the API must send."""

BESIDE, ALONE = "beside", "alone"


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit status.

    Raises:
        ItaclipError: a package is missing, or bad input, with its message.
    """
    args = parser().parse_args(arguments)
    limits = Limits(
        megapixels=args.max_megapixels, upload_mb=args.max_upload_mb, words=args.max_words, seconds=args.time_limit,
        upload_seconds=args.upload_time, queue=args.queue_size,
    )  # fmt: skip
    _require_packages(args.api)
    token = _token() if args.api else None
    check_address(args.host, args.port)  # before weights are loaded
    if args.api:
        from itaclip.web.observing import log_json

        log_json()
    console = make_console()
    segmenter = make_segmenter(args)
    if segmenter.vocabulary and (words := len(segmenter.vocabulary.bank.class_names.queries)) > limits.words:
        raise ItaclipError(f"--max-words {limits.words}: the configuration's classes have {words}; raise it.")
    title = f"Method {segmenter.settings.method}, {_source(args)}"
    api = _api(segmenter, title, limits, token) if args.api else None

    def ready(address: str) -> None:
        what = {None: "", BESIDE: ", API at /v1", ALONE: ", API alone at /v1"}[args.api]
        console.print(f"serving at {address} until Ctrl-C{what}", markup=False)

    if api and args.api == ALONE:
        from itaclip.web.alone import serve_alone

        serve_alone(api, limits, args.host, args.port, args.root_path, token is not None, ready)
        return 0
    if token is not None:
        console.print(f"{TOKEN} guards the API alone: the page asks for no token. --api alone leaves it out.")
    from itaclip.web.server import serve

    paths = ("/v1", "/metrics") if api else ()
    serve(segmenter, title, limits, args.host, args.port, args.root_path, ready=ready, make_api=api, api_paths=paths)
    return 0


def _api(segmenter: Segmenter, title: str, limits: Limits, token: str | None) -> Callable[[Line], ASGIApp]:
    from itaclip.web.api import make_api

    return lambda line: make_api(segmenter, title, limits, line, token)


def _require_packages(api: str | None) -> None:
    if api != ALONE and find_spec("gradio") is None:
        hint = "; --api alone needs no page" if api else ""
        raise ItaclipError(f"the web page needs gradio: pip install 'itaclip[web]'{hint}.")
    if api:
        for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
            if find_spec(module) is None:
                raise ItaclipError(f"the API needs {module.replace('_', '-')}: pip install 'itaclip[api]'.")


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ItaclipError(f"{TOKEN}: expected 16 or more ASCII characters without blanks; unset it to ask for none.")
    return token


def parser() -> argparse.ArgumentParser:
    """The options of `itaclip serve`."""
    options = argparse.ArgumentParser(
        prog="itaclip serve",
        description="A web page and an HTTP API: send an image, name classes, get the result.",
        epilog="examples: itaclip serve --model demo\n"
        "          itaclip serve --model demo --api alone\n"
        "Limits, security and reverse proxies: docs/web.md. The API: docs/http.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(options, text_cache=False)  # what strangers type is not written to the disk
    default = Limits()
    group = options.add_argument_group("server")
    group.add_argument("--api", nargs="?", choices=(BESIDE, ALONE), const=BESIDE,
                       help="answer HTTP requests beside the page (the default of --api) or alone")  # fmt: skip
    group.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)")
    group.add_argument("--port", type=int, default=7860, help="default: 7860")
    group.add_argument("--root-path", metavar="PATH", help="where a reverse proxy shows the page, such as /segment")
    group = options.add_argument_group("limits")
    for name, value, text in (
        ("--max-megapixels", default.megapixels, "of an image"),
        ("--max-upload-mb", default.upload_mb, "of an image file"),
        ("--max-words", default.words, "class words, synonyms and words of the background"),
        ("--time-limit", default.seconds, "seconds of computing"),
        ("--upload-time", default.upload_seconds, "seconds for a request to the API to arrive"),
        ("--queue-size", default.queue, "requests that wait"),
    ):
        group.add_argument(name, type=type(value), default=value, metavar="N", help=f"{text} (default: {value:g})")
    return options


def _source(args: argparse.Namespace) -> str:
    """The model as visitors may know it: files by their names, without folders."""
    parts = [f"configuration {args.config.stem}"] if args.config else []
    if args.model or not args.config:
        name = args.model or "ViT-B/16"
        parts.append(f"model {Path(name).name if Path(name).exists() else name}")
    return ", ".join(parts)
