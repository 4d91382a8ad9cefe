"""`itaclip raster`: a georeferenced raster of any size in, labels with coordinates out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from itaclip.apps.command.options import add_class_options, add_model_options, choose_vocabulary, segmenter_maker
from itaclip.common.console import SECONDS_BETWEEN_LINES, make_console, make_progress
from itaclip.errors import ItaclipError, install_extra

if TYPE_CHECKING:
    from itaclip.apps.raster.segment import RasterReport

_DEMO = Path("work_dirs/demo/raster")


def main(arguments: Sequence[str]) -> int:
    """Label the raster that the options name.

    Returns:
        The exit status.

    Raises:
        ItaclipError: rasterio is missing, or bad input.
    """
    args = parser().parse_args(arguments)
    if args.demo:
        _choose_demo(args)
    elif args.source is None or args.out is None:
        raise ItaclipError("SOURCE and --out: name a raster and the GeoTIFF to write, or see --demo.")
    from itaclip.apps.raster.segment import RasterOptions, segment_raster_with  # needs the extra
    from itaclip.vocabulary import split_classes

    given = vars(args) | {
        "bands": _numbers(args.bands, "--bands", int), "stretch": _pair(args.stretch, "--stretch"),
        "value_range": _pair(args.value_range, "--range"), "polygons_skip": split_classes(args.polygons_skip),
    }  # fmt: skip
    if args.value_range == "stretch":
        given |= {"value_range": None, "stretch": (2.0, 98.0)}
    given["value_range"], args.value_range = given["value_range"], None  # belongs to the raster, not to the segmenter
    options = RasterOptions(**{field.name: given[field.name] for field in fields(RasterOptions)})
    make, device = segmenter_maker(args)
    console = make_console(stderr=args.json)
    with _display(console) as watch:
        report = segment_raster_with(
            args.source, args.out, make, lambda made: choose_vocabulary(args, made), device=device, options=options,
            watch=watch,
        )  # fmt: skip
    shares = ", ".join(f"{name} {share:.1%}" for name, share in report.areas.items())
    kept = f", {report.kept} tasks kept from an earlier run" if report.kept else ""
    console.print(f"labelled in {report.seconds:.1f} s{kept}; labels in {args.out}", markup=False)
    if shares:
        console.print(shares, markup=False)
    if args.polygons:
        console.print(f"{report.polygons} polygons in {args.polygons}", markup=False)
    if args.json:
        summary = {"out": args.out, "areas": report.areas, "polygons": report.polygons, "notes": report.notes,
                   "seconds": report.seconds}  # fmt: skip
        sys.stdout.write(json.dumps(summary, default=str) + "\n")
    return 0


def _choose_demo(args: argparse.Namespace) -> None:
    """Draw the aerial view of the demo's town and choose its classes, unless others are given."""
    from itaclip.apps.raster.demo import CLASSES, draw_demo_raster

    args.source = args.source or draw_demo_raster(_DEMO / "town.tif")
    args.out = args.out or _DEMO / "labels.tif"
    args.model = args.model or "demo"
    if args.classes is None and args.classes_file is None:
        args.classes = CLASSES
        args.background = args.background or "no"


@contextmanager
def _display(console: Console) -> Iterator[Callable[[RasterReport], None]]:
    """Show a bar per stage on a terminal, elsewhere a line now and then; notes once."""
    with make_progress(console) as bar:
        task = bar.add_task("starting", total=None)
        shown, said, stage = 0, time.perf_counter(), ""

        def watch(report: RasterReport) -> None:
            nonlocal shown, said, stage
            for note in report.notes[shown:]:
                console.print(f"note: {note}", markup=False)
            shown = len(report.notes)
            if report.stage != stage:
                stage = report.stage
                bar.reset(task, description=stage, total=report.total or None, completed=report.done)
            bar.update(task, completed=report.done)
            if not console.is_terminal and time.perf_counter() - said > SECONDS_BETWEEN_LINES:
                said = time.perf_counter()
                left = "" if report.left is None else f", {report.left:.0f} s left"
                console.print(f"{report.stage} {report.done}/{report.total}{left}", markup=False)

        yield watch


def _numbers(text: str | None, option: str, kind: Callable[[str], Any]) -> list[Any] | None:
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ItaclipError(f"{option} {text}: expected numbers separated by commas.") from None


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None or text == "stretch":
        return None
    numbers = _numbers(text, option, float) or []
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ItaclipError(f"{option} {text}: expected LOW,HIGH, the lower number first.")
    return numbers[0], numbers[1]


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip raster`."""
    options = argparse.ArgumentParser(
        prog="itaclip raster",
        description="Label a georeferenced raster of any size; the labels are a GeoTIFF with the same coordinates.",
        epilog='example: itaclip raster town.tif --classes "road, street; house" --resolution 0.3 --out labels.tif\n'
        "After an interruption, run the same command again: it continues where it stopped.\n"
        f"Needs rasterio: {install_extra('raster')}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("source", nargs="?", metavar="SOURCE",
                         help="raster that GDAL opens: GeoTIFF, VRT, ...; local, s3:// or https://")  # fmt: skip
    options.add_argument("--out", type=Path, metavar="FILE.tif", help="GeoTIFF of class numbers to write")
    options.add_argument("--demo", action="store_true", help="draw an aerial view of the demo's town and label it with "
                         f"the bundled CLIP, in {_DEMO}")  # fmt: skip
    add_class_options(options)
    add_model_options(options)
    group = options.add_argument_group("raster")
    group.add_argument("--resolution", type=float, metavar="SIZE", help="side of a pixel at which CLIP looks, in the "
                       "raster's unit, such as metres or degrees (default: the raster's own)")  # fmt: skip
    group.add_argument("--bands", metavar="R,G,B", help="bands to show as red, green and blue, or one as grey "
                       "(default: those that the raster calls so, else 1,2,3)")  # fmt: skip
    group.add_argument("--stretch", metavar="LOW,HIGH", help="percentiles of the valid pixels that become black and "
                       "white, such as 2,98")  # fmt: skip
    group.add_argument("--range", "--value-range", dest="value_range", metavar="LOW,HIGH",
                       help="values that become black and white, such as 0,3000")  # fmt: skip
    group = options.add_argument_group("results")
    group.add_argument("--cog", action="store_true", help="write Cloud-Optimised GeoTIFF")
    group.add_argument("--scores", type=Path, metavar="FILE.tif", help="also write the score of every pixel's class, "
                       "in percent")  # fmt: skip
    group.add_argument("--polygons", type=Path, metavar="FILE", help="also write outlines: .gpkg, .geojson (in WGS 84) "
                       "or .parquet")  # fmt: skip
    group.add_argument("--simplify", type=float, default=0.0, metavar="LENGTH", help="how far outlines may lie from "
                       "the pixels' edges, in the raster's unit (default: 0)")  # fmt: skip
    group.add_argument("--polygons-skip", default="", metavar="CLASSES", help='classes without outlines, such as '
                       '"background"; semicolons between them')  # fmt: skip
    group = options.add_argument_group("run")
    group.add_argument("--workers", type=int, metavar="N", help="segmenters, on Ray (default: this process alone)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of each worker (default: up to 4)")
    group.add_argument("--address", help="address of a Ray cluster, or auto on one of its machines; --out must lie "
                       "where all machines see it")  # fmt: skip
    group.add_argument("--overwrite", action="store_true", help="replace results made with other settings")
    group.add_argument("--json", action="store_true", help="print a JSON summary to standard output, the rest to "
                       "standard error")  # fmt: skip
    return options
