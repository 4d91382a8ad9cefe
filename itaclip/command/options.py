"""Options that commands share: which model, which settings, which classes."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from itaclip.core.quality import QUALITIES
from itaclip.errors import ItaclipError
from itaclip.saved import is_saved
from itaclip.segmenter import Segmenter
from itaclip.text.class_names import read_lines
from itaclip.vocabulary import Vocabulary, split_classes, split_definitions


def add_model_options(options: argparse.ArgumentParser, text_cache: bool = True) -> None:
    """Model, quality and settings; without `text_cache` no text is kept on disk, and no option says so."""
    group = options.add_argument_group("model")
    group.add_argument("--model", help="CLIP by name (ViT-B/16, demo, ...), a weight file, or a folder of "
                       "Segmenter.save_pretrained (default: ViT-B/16)")  # fmt: skip
    group.add_argument("--config", type=Path, help="take model, settings and classes of an evaluation's configuration")
    group.add_argument("--quality", choices=tuple(QUALITIES),
                       help="exact: as published; adaptive, balanced (default) and fast approximate it")  # fmt: skip
    group.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="changes",
                       help="any setting of docs/configuration.md, such as method=naclip pamr_steps=0")  # fmt: skip
    group.add_argument("--device", default="auto", help="torch device; auto takes a GPU when there is one")
    options.set_defaults(no_text_cache=not text_cache)
    if text_cache:
        group.add_argument("--no-text-cache", action="store_true", help="encode all texts anew, keep none")


def add_class_options(options: argparse.ArgumentParser) -> None:
    """Classes, background and definitions."""
    group = options.add_argument_group("classes")
    group.add_argument("--classes", help='"cat; sofa, couch": semicolons between classes, commas between synonyms')
    group.add_argument("--classes-file", type=Path, help="one class per line, commas between synonyms")
    group.add_argument("--background",
                       help='what is none of the classes: "yes" (general contrast words), "no" (every pixel gets a '
                            'class), or words of your own: "wall, floor" (default: yes)')  # fmt: skip
    group.add_argument("--definitions", type=Path, help="`name >=text` per line, for some or all classes")


def make_segmenter(args: argparse.Namespace) -> Segmenter:
    """The segmenter that the options describe.

    Raises:
        ItaclipError: weights that cannot be had, or a bad setting.
    """
    make, device = segmenter_maker(args)
    return make(device=device)


def segmenter_maker(args: argparse.Namespace) -> tuple[Callable[..., Segmenter], str]:
    """What makes the segmenter that the options describe, here or elsewhere, given `device`; and the device.

    Raises:
        ItaclipError: a bad setting.
    """
    changes = {"device": args.device} | dict(parse_setting(text) for text in args.changes)
    device = changes.pop("device")
    text_cache = not args.no_text_cache
    if args.config is not None:
        if args.quality is not None:
            raise ItaclipError("--quality: the configuration tells windows and views; change them with --set.")
        make = partial(Segmenter.from_config, args.config, model=args.model, text_cache=text_cache, **changes)
        return make, device
    if args.model and is_saved(args.model):
        if args.quality is not None:
            raise ItaclipError("--quality: the saved segmenter tells windows and views; change them with --set.")
        return partial(Segmenter.from_pretrained, args.model, text_cache=text_cache, **changes), device
    quality = args.quality or "balanced"
    return partial(Segmenter, args.model or "ViT-B/16", quality, text_cache=text_cache, **changes), device


def choose_vocabulary(args: argparse.Namespace, segmenter: Segmenter) -> Vocabulary:
    """The classes that the options describe, or else the configuration's.

    Raises:
        ItaclipError: none, two lists, or a bad one.
    """
    if args.classes is not None and args.classes_file is not None:
        raise ItaclipError("--classes and --classes-file: give one of them.")
    if args.classes_file is not None:
        classes = [line for line in read_lines(args.classes_file) if line.strip()]
        if not classes:
            raise ItaclipError(f"{args.classes_file}: holds no class; write one per line.")
    elif args.classes is not None:
        classes = split_classes(args.classes)
    elif segmenter.vocabulary is not None:
        if args.background is not None or args.definitions is not None:
            raise ItaclipError("--background and --definitions: the configuration has its own; name --classes too.")
        return segmenter.vocabulary
    else:
        raise ItaclipError('name the classes: --classes "cat; sofa, couch", or --classes-file F.')
    backgrounds: dict[str, bool | list[str]] = {"yes": True, "no": False}
    words = args.background or "yes"
    background = backgrounds.get(words, words.replace(";", ",").split(","))
    definitions = split_definitions(read_lines(args.definitions), str(args.definitions)) if args.definitions else None
    return segmenter.prepare(classes, background, definitions)


def parse_setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value as Python writes it; what is no Python is a word."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ItaclipError(f"--set {text!r}: expected KEY=VALUE, such as pamr_steps=0.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
