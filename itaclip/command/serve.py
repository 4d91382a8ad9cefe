"""`itaclip serve`: a web page for one's own images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from itaclip.command.options import add_model_options, make_segmenter
from itaclip.console import make_console
from itaclip.errors import ItaclipError
from itaclip.web.limits import Limits


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; returns the exit status.

    Raises:
        ItaclipError: gradio is missing, or bad input, with its message.
    """
    args = _parser().parse_args(arguments)
    limits = Limits(
        megapixels=args.max_megapixels, upload_mb=args.max_upload_mb, words=args.max_words, seconds=args.time_limit,
        queue=args.queue_size,
    )  # fmt: skip
    if find_spec("gradio") is None:
        raise ItaclipError("the web page needs gradio: pip install 'itaclip[web]'.")
    from itaclip.web.server import check_address, serve

    check_address(args.host, args.port)  # before weights are loaded
    console = make_console()
    segmenter = make_segmenter(args)
    if segmenter.vocabulary and (words := len(segmenter.vocabulary.bank.class_names.queries)) > limits.words:
        raise ItaclipError(f"--max-words {limits.words}: the configuration's classes have {words}; raise it.")
    title = f"Method {segmenter.settings.method}, {_source(args)}"
    serve(
        segmenter, title, limits, args.host, args.port, args.root_path,
        ready=lambda address: console.print(f"serving at {address} until Ctrl-C", markup=False),
    )  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="itaclip serve",
        description="A web page: upload an image, name classes, see and download the result.",
        epilog="example: itaclip serve --model demo\nLimits, security and reverse proxies: docs/web.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(options, text_cache=False)  # what strangers type is not written to the disk
    default = Limits()
    group = options.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)")
    group.add_argument("--port", type=int, default=7860, help="default: 7860")
    group.add_argument("--root-path", metavar="PATH", help="where a reverse proxy shows the page, such as /segment")
    group = options.add_argument_group("limits")
    for name, value, text in (
        ("--max-megapixels", default.megapixels, "of an image"),
        ("--max-upload-mb", default.upload_mb, "of an image file"),
        ("--max-words", default.words, "class words, synonyms and words of the background"),
        ("--time-limit", default.seconds, "seconds of computing"),
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
