"""The web page as visitors meet it: in Chromium, on a desktop and on a phone."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from itaclip import Result, Segmenter

pytest.importorskip("fastapi", reason="the server needs the extra 'web'")
pytest.importorskip("prometheus_client", reason="the server needs the extra 'web'")

import httpx
from web_helpers import CHROMIUM, Server, running_server

TOKEN = "a-token-of-the-tests"
CLASSES = ["bus, city bus", "fence", "house"]
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("web"), ITACLIP_API_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def scene(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_003.jpg"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, scene: Path) -> Path:
    """An image that takes seconds."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.open(scene).resize((1100, 900)).save(path)
    return path


@pytest.fixture(scope="module")
def expected(quick: Segmenter, scene: Path) -> Result:
    return quick(scene, quick.prepare(CLASSES), pamr_steps=10, scores="full")


def test_the_page_is_served_whole_and_loads_nothing_from_elsewhere(server: Server) -> None:
    page = httpx.get(server.address)
    for name in ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"):
        assert name in page.headers
    assert "unsafe" not in page.headers["content-security-policy"]
    parts = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    scripts = [f"./{name}.js" for name in ("api", "viewer", "zip")]
    for path in {*parts, *scripts, "examples/list.json", "examples/street.jpg"}:
        answer = httpx.get(f"{server.address}/{path}")
        assert (answer.status_code, bool(answer.content)) == (200, True), path
        if not answer.headers["content-type"].startswith("image"):
            assert not re.search(rb"https?://(?!127)", answer.content.replace(b"http://www.w3.org/2000/svg", b"")), path


@pytest.mark.parametrize(
    "path", ["static/page.js", "..%2fapi.py", "examples/..%2f..%2fpage.py", "page.py", "etc/passwd"]
)
def test_serves_no_other_file(server: Server, path: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{server.address}/{path}", headers=headers).status_code == 404


# --- in a browser ------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; Debian's package `chromium` has it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """Someone at the page, with a browser session of their own."""

    def __init__(self, chromium: Any, server: Server, size: str, token: str = TOKEN, **options: Any) -> None:
        width, height = SIZES[size]
        self.width = width
        self.context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if "Content Security Policy" in m.text else None,
        )
        self.page.on(
            "request",
            lambda r: None if r.url.startswith((server.address, "data:", "blob:")) else self.complaints.append(r.url),
        )
        if token:
            self.page.add_init_script(f"sessionStorage.setItem('itaclip-token', '{token}')")
        self.page.goto(server.address)
        self.page.get_by_role("button", name="Night").wait_for()
        self.classes = self.page.get_by_role("textbox", name="Classes", exact=True)
        self.button = self.page.get_by_role("button", name="Segment", exact=True)
        self.alert = self.page.locator(".message p")

    def choose(self, *paths: Path) -> None:
        self.page.locator("#model", has_text="model demo").wait_for()
        self.page.locator("#files").set_input_files(paths)
        self.page.locator("#chosen button").nth(len(paths) - 1).wait_for()

    def segment(self, *paths: Path, classes: list[str] = CLASSES) -> None:
        """Send images and wait for the end."""
        self.choose(*paths)
        self.classes.fill("\n".join(classes))
        self.button.click()
        self.wait()

    def wait(self) -> None:
        self.page.locator("#step", has_text=re.compile(r"one in [\d.]+ s\.")).wait_for()

    def mode(self, name: str) -> None:
        self.page.locator(".modes label", has_text=name).click()

    def rows(self) -> list[tuple[str, ...]]:
        """The legend: name and shares."""
        return [tuple(row.split("\n")) for row in self.page.locator(".legend ul button").all_inner_texts()]

    def row(self, name: str) -> Any:
        return self.page.locator(".legend ul button", has_text=name).first

    def pixel(self, x: int, y: int, layer: str = "paint", pane: int = 0) -> list[int]:
        """RGBA of a canvas; its own pixels, not those of the screen."""
        canvas = self.page.locator(f"canvas.{layer}").nth(pane)
        found: list[int] = canvas.evaluate(f"c => [...c.getContext('2d').getImageData({x}, {y}, 1, 1).data]")
        return found

    def point(self, x: int, y: int, size: tuple[int, int], pane: int = 0) -> None:
        """Move the pointer to the middle of a pixel of the image."""
        sheet = self.page.locator(".sheet").nth(pane)
        sheet.scroll_into_view_if_needed()
        box = sheet.bounding_box()
        self.page.mouse.move(
            box["x"] + (x + 0.5) / size[0] * box["width"], box["y"] + (y + 0.5) / size[1] * box["height"]
        )

    def download(self, label: str) -> bytes:
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name=label).click()
        return Path(started.value.path()).read_bytes()

    def leave(self) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width  # nothing sticks out
        self.context.close()
        assert self.complaints == []


@pytest.fixture(params=SIZES)
def visitor(chromium: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    visitor = Visitor(chromium, server, request.param)
    yield visitor
    visitor.leave()


def shares(result: Result) -> list[tuple[str, str]]:
    return [(name, f"{share:.1%}") for name, share in result.areas.items()]


def test_the_result_can_be_read_pixel_by_pixel(visitor: Visitor, expected: Result, scene: Path) -> None:
    visitor.segment(scene)
    assert visitor.rows() == shares(expected)
    height, width = expected.labels.shape
    for layer in ("base", "paint"):
        canvas = visitor.page.locator(f"canvas.{layer}")
        assert canvas.evaluate("c => [c.width, c.height]") == [width, height]  # the image's own resolution
    box = visitor.page.locator(".stage").bounding_box()
    assert box["height"] == pytest.approx(box["width"] * height / width, abs=3)  # the frame fits the picture
    assert box["width"] > 0.4 * visitor.width
    for x, y in [(20, 30), (160, 140), (300, 250)]:
        own, second = (expected.names[i] for i in expected.scores.classes[:, y, x])
        if expected.names[expected.labels[y, x]] != own:
            own, second = expected.names[expected.labels[y, x]], own
        visitor.point(x, y, (width, height))
        read = visitor.page.locator(".readout").inner_text()
        assert re.match(rf"{own} 0?\.?[\d.]+, then {second} [\d.]+\s+x {x}, y {y}$", read), read
        score = float(read.split(",")[0].split()[-1])
        assert score == pytest.approx(expected.score_map(own)[y, x], abs=0.01)
        assert "here" in visitor.row(own).get_attribute("class")


def test_views_opacity_and_classes_change_the_picture(visitor: Visitor, expected: Result, scene: Path) -> None:
    visitor.segment(scene)
    paint, base = visitor.page.locator("canvas.paint"), visitor.page.locator("canvas.base")
    name = next(iter(expected.areas))
    label = expected.names.index(name)
    (y, *_), (x, *_) = np.nonzero(expected.labels == label)
    (v, *_), (u, *_) = np.nonzero(expected.labels != label)
    colour = [*expected.colors[label], 255]
    assert visitor.pixel(x, y) == colour
    visitor.page.get_by_role("slider", name="Opacity").fill("30")
    assert paint.evaluate("c => c.style.opacity") == "0.3"
    visitor.mode("Original")
    assert paint.evaluate("c => c.style.opacity") == "0"
    visitor.mode("Mask")
    assert paint.evaluate("c => c.style.opacity") == "1"
    assert base.evaluate("c => getComputedStyle(c).visibility") == "hidden"
    row = visitor.row(name)
    row.click()  # hides the class
    visitor.page.mouse.move(0, 0)
    assert row.get_attribute("aria-pressed") == "false"
    assert visitor.pixel(x, y)[3] == 0
    row.click()
    assert (row.get_attribute("aria-pressed"), visitor.pixel(x, y)) == ("true", colour)
    visitor.page.mouse.move(0, 0)
    row.hover()  # lights it up: the others darken
    visitor.page.wait_for_timeout(100)
    assert visitor.pixel(x, y) == colour
    assert visitor.pixel(u, v)[:3] == [0, 0, 0]
    visitor.page.mouse.move(0, 0)
    visitor.page.wait_for_timeout(100)
    assert visitor.pixel(u, v) == [*expected.colors[expected.labels[v, u]], 255]
    visitor.mode("Scores")
    visitor.page.locator(".score-class select").select_option(label=name)
    scores = expected.score_map(name)
    peak, low = (np.unravel_index(place, scores.shape) for place in (scores.argmax(), scores.argmin()))
    assert sum(visitor.pixel(*peak[::-1])[:3]) > sum(visitor.pixel(*low[::-1])[:3])  # bright where the score is high
    visitor.page.locator(".zoom select").select_option("400%")
    stage = visitor.page.locator(".stage")
    assert stage.evaluate("s => s.scrollWidth") == pytest.approx(4 * scores.shape[1], abs=2)
    assert stage.bounding_box()["width"] < visitor.width
    assert stage.evaluate("s => s.scrollLeft + s.clientWidth / 2") == pytest.approx(2 * scores.shape[1], abs=2)


def test_downloads_are_the_segmenter_s(visitor: Visitor, expected: Result, scene: Path) -> None:
    visitor.segment(scene)
    with Image.open(io.BytesIO(visitor.download("Mask (PNG)"))) as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.labels)
        assert mask.getpalette()[3:6] == list(expected.colors[1])
    overlay = np.asarray(Image.open(io.BytesIO(visitor.download("Overlay (PNG)"))).convert("RGB"), float)
    blended = 0.45 * expected.image + 0.55 * np.asarray(expected.colors)[expected.labels]
    assert np.abs(overlay - blended).mean() < 4
    summary = json.loads(visitor.download("Summary (JSON)"))
    assert summary == expected.summary() | {"image": "scene_003.jpg"}
    coco = json.loads(visitor.download("COCO (JSON)"))
    assert [entry["segmentation"] for entry in coco["annotations"]] == [
        entry["segmentation"] for entry in expected.to_coco()["annotations"]
    ]


def test_two_settings_side_by_side(visitor: Visitor, quick: Segmenter, expected: Result, scene: Path) -> None:
    other = quick(scene, quick.prepare(CLASSES), method="naclip", pamr_steps=0)
    visitor.page.get_by_label("Compare with a second setting").check()
    second = visitor.page.get_by_role("group", name="Setting B")
    second.get_by_label("Method").select_option("naclip")
    second.get_by_label("Refine along edges").uncheck()
    visitor.segment(scene)
    assert visitor.page.locator("figcaption").all_inner_texts() == ["A: itaclip, refined", "B: naclip, not refined"]
    for name, a, b in visitor.rows():
        assert a == f"A {expected.areas.get(name, 0):.1%}"
        assert b == f"B {other.areas.get(name, 0):.1%}"
    height, width = expected.labels.shape
    visitor.point(160, 140, (width, height), pane=1)  # read in both
    for readout, result in zip(visitor.page.locator(".readout").all_inner_texts(), (expected, other), strict=True):
        assert readout.startswith(result.names[result.labels[140, 160]])
        assert "x 160, y 140" in readout
    same = expected.labels == other.labels
    assert f"A and B agree on {same.mean():.1%}" in visitor.page.locator(".agreement").inner_text()
    visitor.mode("Differences")
    (y, *_), (x, *_) = np.nonzero(~same)
    (v, *_), (u, *_) = np.nonzero(same)
    for pane, result in enumerate((expected, other)):
        assert visitor.pixel(x, y, pane=pane) == [*result.colors[result.labels[y, x]], 255]
        assert visitor.pixel(u, v, pane=pane)[:3] == [0, 0, 0]
    with zipfile.ZipFile(io.BytesIO(visitor.download("ZIP of both results"))) as packed:
        np.testing.assert_array_equal(np.asarray(Image.open(packed.open("b/scene_003.png"))), other.labels)
        np.testing.assert_array_equal(np.asarray(Image.open(packed.open("a/scene_003.png"))), expected.labels)


def test_many_images_and_their_zip(visitor: Visitor, quick: Segmenter, scene: Path, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_text("no image")
    named_alike = tmp_path / "scene_003.png"
    Image.open(scene).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(named_alike)
    tiff = tmp_path / "third.tif"
    Image.open(scene).save(tiff)
    visitor.segment(scene, bad, named_alike, tiff)
    assert visitor.page.locator("#step").inner_text().startswith("3 of 4 images done in ")
    assert visitor.alert.inner_text().startswith(f"{bad.name}: not an image")
    strip = visitor.page.locator(".strip button")
    assert strip.evaluate_all("all => all.map(button => button.disabled)") == [False, True, False, False]
    strip.nth(3).click()  # browsers do not decode TIFF
    visitor.page.locator("figcaption", has_text="third.tif").wait_for()
    with Image.open(scene) as picture:
        seen, real = visitor.pixel(160, 140, "base")[:3], picture.getpixel((160, 140))
    assert np.abs(np.subtract(seen, real)).max() < 40
    with zipfile.ZipFile(io.BytesIO(visitor.download("ZIP of 3 images"))) as packed:
        assert packed.testzip() is None
        assert {"scene_003.png", "scene_003_2.png", "third_overlay.png", "third_coco.json"} < set(packed.namelist())
        flipped = quick(named_alike, quick.prepare(CLASSES), pamr_steps=10)
        np.testing.assert_array_equal(np.asarray(Image.open(packed.open("scene_003_2.png"))), flipped.labels)
        assert packed.read("errors.txt").decode().startswith(f"{bad.name}: not an image")


def test_mistakes_are_explained_and_the_result_stays(visitor: Visitor, scene: Path, tmp_path: Path) -> None:
    visitor.classes.fill("cat")
    visitor.button.click()
    assert "Choose an image first" in visitor.alert.inner_text()
    visitor.segment(scene, classes=["<i>house</i>", "fence"])
    rows = visitor.rows()
    assert "<i>house</i>" in {name for name, _ in rows}  # as text, not in italics
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(2_100_000))
    for classes, file, message in [
        (" ", scene, "class list is empty"),
        ("cat\n<i>cat</i>\n<i>cat</i>", scene, "'<i>cat</i>' already"),
        ("cat", large, "large.jpg: 2.1 MB; at most 2 MB"),
    ]:
        for button in visitor.page.locator("#chosen button").all():
            button.click()
        visitor.choose(file)
        visitor.classes.fill(classes)
        visitor.button.click()
        visitor.alert.filter(has_text=message).wait_for()
        assert visitor.rows() == rows
        assert visitor.page.locator(".stage").is_visible()
    assert visitor.page.locator(".message i").count() == 0
    visitor.page.get_by_role("button", name="Close this message").click()
    assert visitor.alert.count() == 0


def test_images_can_be_dropped_and_pasted(chromium: Any, server: Server, scene: Path) -> None:
    visitor = Visitor(chromium, server, "desktop")
    content = list(scene.read_bytes())
    for target, event, data in [("#drop", "drop", "dataTransfer"), ("body", "paste", "clipboardData")]:
        visitor.page.evaluate(
            """([target, event, data, content]) => {
                const files = new DataTransfer();
                files.items.add(new File([new Uint8Array(content)], `${event}.jpg`));
                const made = event === "drop" ? new DragEvent(event, { [data]: files, bubbles: true, cancelable: true })
                    : new ClipboardEvent(event, { [data]: files, bubbles: true });
                document.querySelector(target).dispatchEvent(made);
            }""",
            [target, event, data, content],
        )
    assert visitor.page.locator("#chosen button").all_inner_texts() == ["drop.jpg", "paste.jpg"]
    visitor.page.get_by_role("button", name="Remove drop.jpg").click()
    assert visitor.page.locator("#chosen button").all_inner_texts() == ["paste.jpg"]
    visitor.leave()


def test_many_failures_are_summed_up(chromium: Any, server: Server, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        path.write_text("no image")
    visitor = Visitor(chromium, server, "desktop")
    visitor.segment(*paths)
    messages = visitor.alert.all_inner_texts()
    assert [message.split(":")[0] for message in messages] == ["0.png", "1.png", "2.png", "2 more images failed."]
    assert visitor.page.locator("#viewer").is_hidden()
    visitor.leave()


def metric(server: Server, name: str) -> float:
    text = httpx.get(f"{server.address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    return float(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1])


def test_progress_and_cancel(visitor: Visitor, server: Server, scene: Path, large: Path) -> None:
    visitor.choose(large)
    visitor.classes.fill("\n".join(CLASSES))
    visitor.page.get_by_text("Settings", exact=True).click()
    visitor.page.locator("#settings-a").get_by_label("Five views").check()
    computed = metric(server, "itaclip_segment_seconds_count")
    visitor.button.click()
    progress = visitor.page.get_by_role("progressbar")
    seen = {progress.evaluate("p => p.value")}
    until = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < until:
        seen.add(progress.evaluate("p => p.value"))
        visitor.page.wait_for_timeout(100)
    assert len(seen) >= 3
    assert max(seen) < 1
    visitor.page.get_by_role("button", name="Cancel").click()
    visitor.alert.filter(has_text="Cancelled.").wait_for()
    until = time.monotonic() + 5
    while metric(server, "itaclip_running") and time.monotonic() < until:
        time.sleep(0.05)
    assert metric(server, "itaclip_running") == 0  # the worker is free
    assert metric(server, "itaclip_segment_seconds_count") == computed  # and did not finish
    visitor.page.locator("#chosen button").click()
    visitor.segment(scene)
    assert visitor.rows()


def test_a_busy_or_broken_server_is_explained(chromium: Any, server: Server, scene: Path) -> None:
    visitor = Visitor(chromium, server, "desktop")
    busy = [1, 1]

    def answer(route: Any) -> None:
        if busy:
            busy.pop()
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "The queue is full."})
        else:
            route.continue_()

    visitor.page.route("**/v1/segment", answer)
    visitor.segment(scene)  # comes back until there is a place
    assert busy == []
    assert visitor.rows()
    visitor.page.unroute("**/v1/segment")
    visitor.page.route("**/v1/segment", lambda route: route.abort())
    visitor.button.click()
    visitor.alert.filter(has_text="The server cannot be reached").wait_for()
    assert visitor.rows()
    visitor.leave()


def test_the_token_is_asked_for(chromium: Any, server: Server, scene: Path) -> None:
    visitor = Visitor(chromium, server, "phone", token="")
    field = visitor.page.get_by_label("Token")
    field.fill("wrong")
    field.press("Enter")
    visitor.alert.filter(has_text="This is not the server's token.").wait_for()
    field.fill(TOKEN)
    visitor.page.get_by_role("button", name="Use").click()
    field.wait_for(state="hidden")
    visitor.segment(scene)
    assert visitor.rows()
    visitor.leave()


def test_keyboard_and_labels_suffice(visitor: Visitor) -> None:
    page, press = visitor.page, visitor.page.keyboard.press
    page.locator("#model", has_text="model demo").wait_for()
    page.get_by_role("button", name="Street").focus()
    press("Enter")
    page.get_by_role("button", name="Remove street.jpg").wait_for()
    order = []
    for _ in range(7):  # from the example on
        press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert order == ["Beach", "Garden", "Night", "classes", "Settings", "compare", "segment"] or "own-words" in order
    visitor.classes.focus()
    press("Control+A")
    page.keyboard.type("house\nroad\nsky")
    press("Control+Enter")
    visitor.wait()
    names = {name for name, _ in visitor.rows()}
    assert {"house", "road"} <= names
    stage = page.get_by_role("application")
    assert "house" in stage.get_attribute("aria-label")
    stage.focus()
    press("ArrowRight")
    press("Shift+ArrowDown")
    read = page.locator(".readout").inner_text()
    with Image.open(io.BytesIO(httpx.get(page.url + "examples/street.jpg").content)) as street:
        assert f"x {street.width // 2 + 1}, y {street.height // 2 + 10}" in read
    assert page.locator(".readout").get_attribute("aria-live") == "polite"
    row = visitor.row("house")
    row.focus()
    press("Space")
    assert row.get_attribute("aria-pressed") == "false"
    page.get_by_role("radio", name="Overlay").focus()
    press("ArrowRight")
    assert page.locator(".pane").get_attribute("data-mode") == "mask"
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea')].filter(
        element => element.checkVisibility() && !element.textContent.trim() && !element.labels?.length &&
        !element.getAttribute('aria-label')).map(element => element.outerHTML)""")
    assert unnamed == []


def test_dark_mode_follows_the_system_and_can_be_switched(chromium: Any, server: Server) -> None:
    def brightness(visitor: Visitor) -> float:
        color = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    for scheme in ("light", "dark"):
        visitor = Visitor(chromium, server, "desktop", color_scheme=scheme)
        switch = visitor.page.get_by_role("button", name="Dark mode")
        for pressed in (scheme == "dark", scheme == "light"):
            assert switch.get_attribute("aria-pressed") == str(pressed).lower()
            assert (brightness(visitor) < 60) == pressed
            switch.click()
        visitor.page.reload()  # remembered
        assert (brightness(visitor) < 60) == (scheme == "dark")
        visitor.leave()


def test_the_screenshots_of_the_guide_can_be_made(chromium: Any, server: Server) -> None:
    spec = importlib.util.spec_from_file_location("make_screenshots", ROOT / "tools/make_screenshots.py")
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # dataclasses look their module up
    spec.loader.exec_module(tool)

    class Browser:
        """Chromium with the token."""

        def new_context(self, **options: Any) -> Any:
            context = chromium.new_context(**options)
            context.add_init_script(f"sessionStorage.setItem('itaclip-token', '{TOKEN}')")
            return context

    for shot in tool.SHOTS:
        picture = tool.taken(Browser(), server.address, shot)
        assert picture.size == (shot.width, shot.height)
        dark = np.asarray(picture).mean() < 100
        assert dark == (shot.scheme == "dark")
        assert (ROOT / f"docs/images/{shot.name}.png").stat().st_size < 400_000
