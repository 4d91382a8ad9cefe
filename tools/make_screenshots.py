"""Screenshots of the web page with the bundled demo model, for the guides.

    python tools/make_screenshots.py --out docs/images

Needs playwright (requirements-dev.txt) and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from itaclip.common.console import run
from itaclip.errors import ItaclipError
from itaclip.files import atomic_path
from itaclip.research.benchmark.server import running_server

BOAT, CAR = (0.722, 0.353), (0.803, 0.71)
"""Places in the scenes, as shares of width and height, where two classes compete."""


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        name: of the file, without its ending.
        width: of the window in pixels.
        height: of the window in pixels.
        scheme: "light" or "dark".
        act: what the visitor does.
    """

    name: str
    width: int
    height: int
    scheme: str
    act: Callable[[Any], None]


def main() -> int:
    """Make all screenshots."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for web*.png")
    options.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"),
                         metavar="PROGRAM", help="default: the one on the path")  # fmt: skip
    args = options.parse_args()
    if args.chromium is None:
        raise ItaclipError("--chromium: not found; install Chromium or name its program.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ItaclipError("screenshots need playwright: pip install playwright.") from None
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "server.log", "--model", "demo") as (address, _),
        sync_playwright() as started,
    ):
        browser = started.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for shot in SHOTS:
            picture = taken(browser, address, shot)
            path = args.out / f"{shot.name}.png"
            with atomic_path(path) as partial:
                picture.save(partial, optimize=True)
            sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")
        browser.close()
    return 0


def taken(browser: Any, address: str, shot: Shot) -> Image.Image:
    """Take a screenshot; colours are rounded to multiples of 4, which nobody sees and which saves a third."""
    context = browser.new_context(viewport={"width": shot.width, "height": shot.height}, color_scheme=shot.scheme)
    page = context.new_page()
    page.goto(address)
    page.locator("#model", has_text="demo").wait_for()
    shot.act(page)
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    context.close()
    return picture.point([min((value + 2) // 4 * 4, 255) for value in range(256)] * 3)


# --- what the visitor does ---------------------------------------------------


def segment(page: Any, scene: str) -> None:
    """Take an example and wait for its result."""
    page.get_by_role("button", name=scene, exact=True).click()
    page.locator("#chosen button").wait_for()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.locator("#step", has_text="Done in").wait_for()
    page.locator("form").evaluate("form => form.scrollTo(0, 0)")


def point(page: Any, across: float, down: float) -> None:
    """Point at a place of the first picture, in shares of its size."""
    box = page.locator(".sheet").first.bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])


def read_a_pixel(page: Any) -> None:
    """Show the result of a scene, and the pointer on it."""
    segment(page, "Beach")
    point(page, *BOAT)


def light_up_a_class(page: Any) -> None:
    """Light up one class, the others darker."""
    segment(page, "Street")
    page.locator(".legend button", has_text="house").hover()
    page.wait_for_timeout(200)


def compare(page: Any) -> None:
    """Show two methods, and the pointer on both."""
    page.get_by_label("Compare with a second setting").check()
    second = page.get_by_role("group", name="Setting B")
    second.get_by_label("Method").select_option("maskclip")
    second.get_by_label("Refine along edges").uncheck()
    segment(page, "Night")
    point(page, *CAR)


def on_a_phone(page: Any) -> None:
    """Show the result, which fills the width."""
    segment(page, "Beach")
    page.locator("#result").evaluate("result => result.scrollIntoView()")
    point(page, *BOAT)


SHOTS = (
    Shot("web", 1440, 900, "light", read_a_pixel),
    Shot("web-dark", 1440, 900, "dark", light_up_a_class),
    Shot("web-compare", 1440, 900, "light", compare),
    Shot("web-phone", 390, 844, "light", on_a_phone),
)


if __name__ == "__main__":
    sys.exit(run(main))
