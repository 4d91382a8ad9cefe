"""Measure seconds and memory over the number of classes, and what a shortlist changes.

    python tools/measure_many_classes.py --against CHECKOUT --out docs/results/many_classes.json
    python tools/measure_many_classes.py --weights vit-b-16.pt --against CHECKOUT --out F

Images and text features are random. Every case runs in a process of its own. `--against` runs the same in a checkout of
another version, such as one made by ``git worktree add CHECKOUT 6d826d1``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from itaclip import Segmenter
from itaclip.common.console import make_console, run, table_of
from itaclip.common.demo.scenes import draw_scene
from itaclip.common.environment import machine, versions
from itaclip.common.shipped import configuration_folder
from itaclip.core.text import read_class_names
from itaclip.files import write_json
from itaclip.research.benchmark.many_classes import Case, compared, shortlists

_MOST_ALL_AT_ONCE = 1000  # classes up to which other versions are run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150, 847, 10_000])
    parser.add_argument("--weights", help="also measure Cityscapes' settings with weights of ViT-B/16's size")
    parser.add_argument("--against", type=Path, help="a checkout of another version, measured side by side")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts")
    parser.add_argument("--scenes", type=int, default=6, help="scenes of the demo for the shortlist")
    parser.add_argument("--shortlists", type=int, nargs="+", default=[50, 100, 300], help="lengths, of 1,000 classes")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    cases = [Case(classes, repeats=args.repeats) for classes in args.classes]
    if args.weights:
        settings = (("quality", "fast"), ("slide_crop", 224), ("slide_stride", 112), ("pamr_steps", 10))
        cases += [Case(classes, (1024, 2048), args.weights, settings, 560, 1) for classes in (26, 847)]
    tables: dict[str, list[dict[str, Any]]] = {
        "classes": compared(cases, args.against and args.against.resolve(), _MOST_ALL_AT_ONCE),
        "shortlist, random texts": shortlists(Case(1000, repeats=args.repeats), args.shortlists),
        "shortlist, demo": on_the_demo(args.scenes, (5, 10, 15)),
    }
    console = make_console()
    for title, rows in tables.items():
        console.print(table_of(title, rows))
    if args.out:
        write_json(args.out, {"tables": tables, "machine": machine(), "versions": versions()})
    return 0


def on_the_demo(scenes: int, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure the share of equal labels on scenes of the demo, with its own classes."""
    names = read_class_names(configuration_folder() / "cls_demo.txt", background=True)
    segmenter = Segmenter("demo", "fast")
    background, *classes = (", ".join(words) for words in names.synonyms)
    segmenter.set_classes(classes, background=background.split(", "))
    images = [draw_scene((320, 480), np.random.default_rng([91, number])).image for number in range(scenes)]
    expected = segmenter(images)
    rows = []
    for number in numbers:
        found = segmenter(images, shortlist=number)
        equal = [(one.labels == other.labels).mean() for one, other in zip(found, expected, strict=True)]
        rows.append({"classes": len(names), "shortlist": number, "equal labels": float(np.mean(equal))})
    return rows


if __name__ == "__main__":
    run(main)
