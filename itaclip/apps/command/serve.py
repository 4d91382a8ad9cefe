"""`itaclip serve`: a web page and an HTTP API for one's own images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from itaclip.apps.command.options import add_image_options, add_model_options, make_segmenter
from itaclip.apps.web.address import check_address
from itaclip.apps.web.limits import Limits
from itaclip.common.console import make_console
from itaclip.errors import ItaclipError, install_extra

TOKEN = "ITACLIP_API_TOKEN"
"""Environment variable with the token that the page asks for and clients of the API must send."""

BESIDE, ALONE = "beside", "alone"
_MODULES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


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
    for module in _MODULES:
        if find_spec(module) is None:
            raise ItaclipError(f"the server needs {module.replace('_', '-')}: {install_extra('web')}.")
    token = _token()
    check_address(args.host, args.port)  # before weights are loaded
    from itaclip.apps.web.api import make_api
    from itaclip.apps.web.observing import log_json
    from itaclip.apps.web.page import routes
    from itaclip.apps.web.server import serve

    if args.api:
        log_json()
    console = make_console()
    segmenter = make_segmenter(args)
    if segmenter.vocabulary and (words := len(segmenter.vocabulary.bank.class_names.queries)) > limits.words:
        raise ItaclipError(f"--max-words {limits.words}: the configuration's classes have {words} words; raise it.")
    if segmenter.vocabulary:
        segmenter.settle()
    elif segmenter.settings.dtype == "auto":
        raise ItaclipError(
            "dtype = 'auto' is measured with a class list, which only requests bring here: name a precision, or serve "
            "a configuration with classes (--config)."
        )
    title = f"Method {segmenter.settings.method}, {_source(args)}"
    page = [] if args.api == ALONE else routes()

    def ready(address: str) -> None:
        what = "API only, at /v1" if args.api == ALONE else "API at /v1"
        console.print(f"serving at {address} until Ctrl-C, {what}", markup=False)

    serve(
        lambda queue: make_api(segmenter, title, limits, queue, token, page), limits, args.host, args.port,
        args.root_path, guarded=token is not None, ready=ready,
    )  # fmt: skip
    return 0


def _token() -> str | None:
    token = os.environ.get(TOKEN)
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ItaclipError(f"{TOKEN}: expected 16 or more ASCII characters without spaces; unset it to ask for none.")
    return token


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip serve`."""
    options = argparse.ArgumentParser(
        prog="itaclip serve",
        description="A web page and an HTTP API: send an image, name classes, get the result.",
        epilog="examples: itaclip serve --model demo\n"
        "          itaclip serve --model demo --api alone\n"
        f"Set {TOKEN} to ask visitors for a token.\n"
        "Limits, security and reverse proxies: docs/web.md. The API: docs/http.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(options, text_cache=False)  # what strangers type is not written to the disk
    add_image_options(options, largest=False)  # --max-megapixels
    default = Limits()
    group = options.add_argument_group("server")
    group.add_argument("--api", nargs="?", choices=(BESIDE, ALONE), const=BESIDE,
                       help="log every request as a line of JSON; 'alone' also leaves the page out")  # fmt: skip
    group.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine only)")
    group.add_argument("--port", type=int, default=7860, help="default: 7860")
    group.add_argument("--root-path", metavar="PATH", help="the path under which a reverse proxy shows the server")
    group = options.add_argument_group("limits")
    for name, value, text in (
        ("--max-megapixels", default.megapixels, "megapixels per image"),
        ("--max-upload-mb", default.upload_mb, "megabytes per image file"),
        ("--max-words", default.words, "class words, synonyms and background words together"),
        ("--time-limit", default.seconds, "seconds of computing per image"),
        ("--upload-time", default.upload_seconds, "seconds for a request to arrive"),
        ("--queue-size", default.queue, "requests that may wait"),
    ):
        group.add_argument(name, type=type(value), default=value, metavar="N", help=f"{text} (default: {value:g})")
    return options


def _source(args: argparse.Namespace) -> str:
    """Return the model as visitors see it: files by name, without folders."""
    parts = [f"configuration {args.config.stem}"] if args.config else []
    if args.model or not args.config:
        name = args.model or "ViT-B/16"
        parts.append(f"model {Path(name).name if Path(name).exists() else name}")
    return ", ".join(parts)
