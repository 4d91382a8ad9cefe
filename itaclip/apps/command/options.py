"""Options that commands share: model, settings and classes."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itaclip.common.shipped import complete_configuration
from itaclip.core.quality import QUALITIES
from itaclip.errors import ItaclipError

if TYPE_CHECKING:
    from itaclip.segmenter import Segmenter
    from itaclip.vocabulary import Vocabulary


def add_model_options(options: argparse.ArgumentParser, text_cache: bool = True) -> None:
    """Add the options for model, quality and settings.

    Args:
        options: receives them.
        text_cache: offer ``--no-text-cache``. Without it, no text is ever stored on disk.
    """
    group = options.add_argument_group("model")
    group.add_argument("--model", help="CLIP by name (ViT-B/16, demo, ...), a weight file, or a folder made "
                       "by Segmenter.save_pretrained; or sam3, sam3:FOLDER (default: ViT-B/16)")  # fmt: skip
    config = group.add_argument("--config", type=Path, help="take model, settings and classes from a configuration: a "
                                "file, or the name of a shipped one, such as voc")  # fmt: skip
    config.completer = complete_configuration  # type: ignore[attr-defined]
    group.add_argument("--quality", choices=tuple(QUALITIES),
                       help="quality preset: exact is as published; adaptive, balanced (default) and fast "
                       "approximate it")  # fmt: skip
    group.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="changes",
                       help="any setting of docs/configuration.md, such as method=naclip pamr_steps=0")  # fmt: skip
    group.add_argument("--device", default="auto", help="PyTorch's device; auto takes CUDA, else Apple's MPS, else "
                       "the CPU (default: auto)")  # fmt: skip
    options.set_defaults(no_text_cache=not text_cache)
    if text_cache:
        group.add_argument("--no-text-cache", action="store_true", help="encode all texts again and store none")


def add_class_options(options: argparse.ArgumentParser) -> None:
    """Add the options for classes, background and definitions."""
    group = options.add_argument_group("classes")
    group.add_argument("--classes", help='"cat; sofa, couch": semicolons between classes, commas between synonyms')
    group.add_argument("--classes-file", type=Path, help="one class per line, commas between synonyms")
    group.add_argument("--background",
                       help='the background: "yes" (general contrast words), "auto" (words chosen for your classes), '
                            '"no" (none: every pixel gets a class), or words of your own, such as "wall, floor" '
                            '(default: yes)')  # fmt: skip
    group.add_argument("--lexicon", type=Path, metavar="FILE",
                       help="words from which --background auto chooses, separated by commas or line breaks "
                       "(default: the names of COCO-Stuff and ADE20K)")  # fmt: skip
    group.add_argument("--definitions", type=Path, help="one `name >=text` per line, for some or all classes")
    group.add_argument("--colors", metavar="NAME=COLOR; ...",
                       help='colours of classes, such as "cat=#ff8000; sofa=orange" (default: a palette)')  # fmt: skip


def add_image_options(options: argparse.ArgumentParser, largest: bool = True) -> None:
    """Add the options for reading images.

    Args:
        options: receives them.
        largest: offer ``--largest``.
    """
    group = options.add_argument_group("images")
    if largest:
        group.add_argument("--largest", type=int, metavar="N",
                           help="maximum number of pixels of an image (default: 100 million)")  # fmt: skip
    group.add_argument("--value-range", metavar="LOW,HIGH", help="values of images with more than 8 bits that become "
                       "0 and 255; 'stretch' takes the 2nd and 98th percentile of each image")  # fmt: skip


def _read_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the arguments of `Segmenter` for reading images; those not given are left out."""
    from itaclip.common.images import ReadOptions, parse_range

    found: dict[str, Any] = {}
    if getattr(args, "largest", None) is not None:
        found["largest"] = args.largest
    if getattr(args, "value_range", None) is not None:
        found["value_range"] = parse_range(args.value_range)
    ReadOptions(**found)  # report a bad value before loading weights
    return found


def add_coco_options(options: argparse._ArgumentGroup, kind: Callable[[str], Any] = str) -> None:
    """Add the options for a COCO file of the whole run, whose path has the given type."""
    options.add_argument("--coco", type=kind, metavar="FILE.json", help="also write all masks into one COCO file")
    options.add_argument("--coco-skip", default="", metavar="CLASSES", help='classes to leave out there, such as '
                         '"background"; semicolons between them')  # fmt: skip


def add_run_options(options: argparse._ArgumentGroup) -> None:
    """Add the options of commands that label many images."""
    options.add_argument("--batch", type=int, default=4, help="images per step (default: 4)")
    options.add_argument("--overwrite", action="store_true", help="replace results made with other settings in --out")
    options.add_argument("--json", action="store_true", help="print a JSON summary to standard output, the rest to "
                         "standard error")  # fmt: skip


def coco_skip(args: argparse.Namespace) -> list[str]:
    """Return the classes that ``--coco-skip`` names.

    Raises:
        ItaclipError: there is no ``--coco``.
    """
    if args.coco_skip and args.coco is None:
        raise ItaclipError("--coco-skip: belongs to --coco FILE.json, which is missing.")
    from itaclip.vocabulary import split_classes

    return split_classes(args.coco_skip)


def make_segmenter(args: argparse.Namespace) -> Segmenter:
    """Make the segmenter that the options describe.

    Raises:
        ItaclipError: weights that cannot be found or loaded, or a bad setting.
    """
    make, device = segmenter_maker(args)
    return make(device=device)


def segmenter_maker(args: argparse.Namespace) -> tuple[Callable[..., Segmenter], str]:
    """Make a function that makes the segmenter that the options describe, and name the device.

    Returns:
        The function, which takes `device` by keyword and can be sent to another process; and the device.

    Raises:
        ItaclipError: a bad setting.
    """
    from itaclip.formats.saved import is_saved
    from itaclip.segmenter import Segmenter

    changes = {"device": args.device} | dict(parse_setting(text) for text in args.changes)
    device = changes.pop("device")
    changes |= _read_arguments(args)
    text_cache = not args.no_text_cache
    if args.config is not None:
        if args.quality is not None:
            raise ItaclipError("--quality: the configuration sets windows and views; change them with --set.")
        make = partial(Segmenter.from_config, args.config, model=args.model, text_cache=text_cache, **changes)
        return make, device
    if args.model and is_saved(args.model):
        if args.quality is not None:
            raise ItaclipError("--quality: the saved segmenter sets windows and views; change them with --set.")
        return partial(Segmenter.from_pretrained, args.model, text_cache=text_cache, **changes), device
    quality = args.quality or "balanced"
    return partial(Segmenter, args.model or "ViT-B/16", quality, text_cache=text_cache, **changes), device


def choose_vocabulary(args: argparse.Namespace, segmenter: Segmenter) -> Vocabulary:
    """Choose the classes that the options describe, or else those of the configuration.

    Raises:
        ItaclipError: no list of classes, two lists, or a bad one.
    """
    from itaclip.core.text.class_names import read_lines
    from itaclip.vocabulary import split_classes, split_definitions

    if args.classes is not None and args.classes_file is not None:
        raise ItaclipError("--classes and --classes-file: give only one of them.")
    source = "--classes"
    if args.classes_file is not None:
        lines = read_lines(args.classes_file)
        classes = [line for line in lines if line.strip()]
        source = str(args.classes_file) + (" (without its blank lines)" if len(classes) < len(lines) else "")
        if not classes:
            raise ItaclipError(f"{args.classes_file}: contains no class; write one per line.")
    elif args.classes is not None:
        classes = split_classes(args.classes)
    elif segmenter.vocabulary is not None:
        if args.background is not None or args.definitions is not None or args.lexicon is not None:
            raise ItaclipError(
                "--background, --definitions and --lexicon: the configuration has its own; give --classes too."
            )
        return segmenter.vocabulary.colored(_colors(args.colors))
    else:
        raise ItaclipError('no classes: give --classes "cat; sofa, couch" or --classes-file FILE.')
    backgrounds: dict[str, bool | str | list[str]] = {"yes": True, "no": False, "auto": "auto"}
    words = args.background or "yes"
    background = backgrounds.get(words.lower(), words.replace(";", ",").split(","))
    definitions = split_definitions(read_lines(args.definitions), str(args.definitions)) if args.definitions else None
    if args.lexicon is not None and background != "auto":
        raise ItaclipError("--lexicon: words are chosen from it only with --background auto.")
    return segmenter.prepare(
        classes, background, definitions, _colors(args.colors), source=source, lexicon=args.lexicon
    )


def background_line(vocabulary: Vocabulary) -> str:
    """Describe the background of a class list for the summary of a command."""
    words = f" ({', '.join(vocabulary.background_words)})" if vocabulary.background_words else ""
    return f"background: {vocabulary.background_choice or 'as saved'}{words}"


def _colors(text: str | None) -> dict[str, str]:
    """Return the colours by class that ``--colors`` names."""
    from itaclip.vocabulary import split_classes

    entries = [entry.rpartition("=") for entry in split_classes(text or "")]
    for name, _, color in entries:
        if not name.strip():
            raise ItaclipError(f"--colors {color!r}: expected NAME=COLOR, such as cat=#ff8000.")
    return {name.strip(): color.strip() for name, _, color in entries}


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``name=value``; the value is a Python literal, or else taken as a string."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ItaclipError(f"--set {text!r}: expected KEY=VALUE, such as pamr_steps=0.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
