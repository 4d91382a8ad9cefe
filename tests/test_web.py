"""The web page as visitors meet it: over HTTP and in Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from itaclip import Result, Segmenter

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'itaclip[web]'")

import httpx
from gradio_client import Client
from gradio_client.exceptions import AppError
from web_helpers import CHROMIUM, Server, form, running_server, write_bomb

CLASSES = ["bus, city bus", "fence", "house"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def scene(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_003.jpg"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with closing(Client(server.address, verbose=False)) as client:
        yield client


def labels_of(mask: str | Path) -> Any:
    with Image.open(mask) as opened:
        return np.asarray(opened)


def downloads(answer: tuple[Any, ...]) -> list[str]:
    """Paths of mask, overlay, summary and COCO on this side."""
    return [update["value"] for update in answer[3:]]


# --- over HTTP ---------------------------------------------------------------


def test_two_visitors_at_once_get_their_own_classes(server: Server, quick: Segmenter, scene: Path) -> None:
    lists = [CLASSES, ["wooden wall, planks", "water"]]

    def visit(classes: list[str]) -> list[tuple[Any, dict[str, Any]]]:
        with closing(Client(server.address, verbose=False)) as client:
            answers = [downloads(client.predict(**form(scene, "; ".join(classes)), api_name="/segment")) for _ in "ab"]
            return [(labels_of(mask), json.loads(Path(summary).read_text())) for mask, _, summary, _ in answers]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(visit, lists))
    for classes, answers in zip(lists, found, strict=True):
        expected = quick(scene, quick.prepare(classes))
        for labels, summary in answers:
            np.testing.assert_array_equal(labels, expected.labels)
            assert summary == expected.summary() | {"image": "scene_003.jpg"}


def test_every_answer_has_security_headers(server: Server) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/no/such/page", "/gradio_api/file=/etc/passwd"):
        headers = httpx.get(server.address + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/passwd", "file=etc/passwd", "file={root}/README.md", "file={temporary}/../../../etc/passwd",
        "file={temporary}/%2e%2e/%2e%2e/log.txt", "file=http://example.org/", "file=https:/example.org/",
        "file=//etc/passwd", "file/etc/passwd", "proxy=http://example.org/", "proxy=https://x.hf.space/",
        "vibe-code", "profiling/traces",        "custom_component/x/client/component/../../../../etc/passwd",
    ],
)  # fmt: skip
def test_serves_no_other_file_and_fetches_none(server: Server, path: str) -> None:
    (folder,) = server.temporary.glob("itaclip-web-*")
    address = f"{server.address}/gradio_api/{path.format(root=Path(__file__).parent.parent, temporary=folder)}"
    answer = httpx.get(address)
    assert answer.status_code in (401, 403, 404)
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["{root}/docs/images/demo.png", "/etc/passwd", "http://example.org/cat.png"])
@pytest.mark.parametrize("place", ["image", "classes"])
def test_takes_no_path_or_link_for_an_upload(server: Server, scene: Path, path: str, place: str) -> None:
    file = {"path": path.format(root=Path(__file__).parent.parent), "meta": {"_type": "gradio.FileData"}}
    values = form(None, "grass", **{place: file})
    started = httpx.post(f"{server.address}/gradio_api/call/segment", json={"data": list(values.values())})
    answer = httpx.get(f"{server.address}/gradio_api/call/segment/{started.json()['event_id']}", timeout=60).text
    assert "event: error" in answer
    assert "event: complete" not in answer
    if path.startswith("http"):
        assert "Links are not fetched" in answer


def test_uploads_too_large_or_of_unknown_length_are_refused(server: Server) -> None:
    address = f"{server.address}/gradio_api/upload"
    large = httpx.post(address, files={"files": ("a.png", b"x" * 2_200_000)})
    assert (large.status_code, large.text) == (413, "Too large: at most 2 MB are taken.")
    assert httpx.post(address, content=iter([b"x"])).status_code == 411


def test_bad_requests_get_a_reason_and_no_path(server: Server, client: Client, scene: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    bomb = write_bomb(tmp_path / "bomb.png")
    large = tmp_path / "large.png"
    Image.new("RGB", (1100, 1000)).save(large)
    logged = len(server.log.read_text())
    for values, reason in [
        (form(text, "cat"), "text.png: not an image"),
        (form(bomb, "cat"), "bomb.png: too large"),
        (form(large, "cat"), "large.png: 1100 x 1000 pixels; at most 1,000,000"),
        (form(None, "cat"), "no image"),
        (form(scene, ""), "class list is empty"),
        (form(scene, "cat; dog; cat"), "'cat' already occurs on line 1"),
        (form(scene, "; ".join(map(str, range(101)))), "101 words"),
        (form(scene, "cat", threshold="x"), "expected a float"),
    ]:
        with pytest.raises(AppError, match=reason) as refusal:
            client.predict(**values, api_name="/segment")
        for secret in (str(server.temporary), "site-packages", "Traceback", "/tmp"):
            assert secret not in str(refusal.value)
    assert "Traceback" not in server.log.read_text()[logged:]  # none of these is the server's fault


def test_faults_of_the_server_are_logged_not_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    import gradio as gr

    from itaclip.web.limits import Limits
    from itaclip.web.line import Line
    from itaclip.web.page import answer_of

    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    answer = answer_of(None, Limits(), tmp_path, [], Line(1))  # type: ignore[arg-type]
    with pytest.raises(gr.Error) as refusal:
        answer(gr.Request(session_hash="x"), image={"path": str(tmp_path / "image.png")}, classes="cat")
    assert refusal.value.message == "Something went wrong; the server's log says what."
    assert "AttributeError" in caplog.text


def test_a_full_queue_says_so(server: Server, client: Client, scene: Path) -> None:
    values = form(scene, "wood; water", background="none", views=True)
    jobs = [client.submit(**values, api_name="/segment") for _ in range(8)]
    errors = [job.exception(timeout=120) for job in jobs]
    assert any(error is None for error in errors)
    assert any("Queue is full" in str(error) for error in errors if error)


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
    """Someone at the page, with a browser session of their own; nothing may go wrong in the console."""

    def __init__(self, chromium: Any, server: Server, width: int = 1400, height: int = 1000) -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on(
            "request",
            lambda r: None if r.url.startswith((server.address, "data:", "blob:")) else self.complaints.append(r.url),
        )
        self.page.goto(server.address)
        self.classes = self.page.get_by_role("textbox", name="Classes One per line")
        self.button = self.page.get_by_role("button", name="Segment", exact=True)
        self.button.wait_for()

    def upload(self, path: Path) -> None:
        self.page.locator("input[type=file]").first.set_input_files(path)
        self.page.get_by_role("button", name="Remove Image").wait_for()

    def rows(self) -> list[str]:
        """The legend, row by row."""
        return self.page.locator("table.legend tbody tr").all_inner_texts()

    def wait_for_legend(self, name: str) -> None:
        self.page.locator("table.legend td", has_text=name).first.wait_for()

    def error(self) -> str:
        """The message that appears, which is then closed."""
        toast = self.page.locator(".toast-body.error")
        toast.wait_for()
        text: str = toast.inner_text()
        toast.get_by_test_id("toast-close").click()
        toast.wait_for(state="detached")
        return text

    def download(self, label: str, folder: Path) -> Path:
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name=label).click()
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        return path


@pytest.fixture
def visitor(chromium: Any, server: Server) -> Iterator[Visitor]:
    visitor = Visitor(chromium, server)
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []


def expected_rows(result: Result) -> list[str]:
    return [f"{name}\t{share:.1%}" for name, share in result.areas.items()]


def test_upload_classes_overlay_downloads(visitor: Visitor, quick: Segmenter, scene: Path, tmp_path: Path) -> None:
    expected = quick(scene, quick.prepare(CLASSES), pamr_steps=10)
    visitor.upload(scene)
    visitor.classes.fill("\n".join(CLASSES))
    visitor.button.click()
    visitor.wait_for_legend("house")
    assert [row.strip() for row in visitor.rows()] == expected_rows(expected)
    picture = visitor.page.get_by_role("img", name="The image with its classes in colour: ")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == list(Image.open(scene).size)
    mask = visitor.download("Mask (PNG)", tmp_path)
    np.testing.assert_array_equal(labels_of(mask), expected.labels)
    with Image.open(mask) as opened:
        assert opened.getpalette()[3:6] == list(expected.colors[1])
    assert labels_of(visitor.download("Overlay (PNG)", tmp_path)).shape == np.asarray(expected.overlay()).shape
    summary = json.loads(visitor.download("Summary (JSON)", tmp_path).read_text())
    assert summary == expected.summary() | {"image": "scene_003.jpg"}
    coco = json.loads(visitor.download("COCO (JSON)", tmp_path).read_text())
    for found, wanted in zip(coco["annotations"], expected.coco()["annotations"], strict=True):
        # words encoded in other company differ in the last bit, and scores with them
        assert found.pop("score") == pytest.approx(wanted.pop("score"), abs=1e-5)
        assert found == wanted
    visitor.page.get_by_role("tab", name="Scores").click()
    highest = max(expected.names, key=lambda name: expected.score_map(name).max())
    visitor.page.get_by_text(f"{highest}: up to {expected.score_map(highest).max():.2f}").first.wait_for()


def test_mistakes_are_told_on_the_page(visitor: Visitor, scene: Path, tmp_path: Path) -> None:
    visitor.classes.fill("cat")
    visitor.button.click()
    assert "no image: upload one" in visitor.error()
    text = tmp_path / "text.png"
    text.write_text("no image")
    visitor.upload(text)
    visitor.button.click()
    assert "text.png: not an image" in visitor.error()
    visitor.page.get_by_role("button", name="Remove Image").click()
    visitor.upload(scene)
    visitor.classes.fill(" ")
    visitor.button.click()
    assert "class list is empty" in visitor.error()
    visitor.classes.fill("cat\n<i>cat</i>\n<i>cat</i>")
    visitor.button.click()
    assert "'<i>cat</i>' already occurs on line 2" in visitor.error()  # as text, not in italics
    visitor.classes.fill("<i>house</i>")
    visitor.page.get_by_role("radio", name="None").check()
    visitor.button.click()
    visitor.wait_for_legend("<i>house</i>")


def test_a_file_too_large_is_told_on_the_page(chromium: Any, server: Server, tmp_path: Path) -> None:
    visitor = Visitor(chromium, server)  # whose console is left alone: gradio asks after the upload that it refused
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(2_100_000))
    visitor.page.locator("input[type=file]").first.set_input_files(large)
    assert "exceed the maximum allowed size" in visitor.error()
    visitor.context.close()


def test_two_browsers_with_different_classes(chromium: Any, server: Server, quick: Segmenter, scene: Path) -> None:
    lists = [CLASSES, ["wooden wall, planks", "water"]]
    visitors = [Visitor(chromium, server) for _ in lists]
    for visitor, classes in zip(visitors, lists, strict=True):
        visitor.upload(scene)
        visitor.classes.fill("; ".join(classes))
    for visitor in visitors:
        visitor.button.click()
    for visitor, classes in zip(visitors, lists, strict=True):
        expected = quick(scene, quick.prepare(classes), pamr_steps=10)
        visitor.wait_for_legend("background")
        assert [row.strip() for row in visitor.rows()] == expected_rows(expected)
        visitor.context.close()
    (folder,) = server.temporary.glob("itaclip-web-*")
    until = time.monotonic() + 20
    while any((folder / "sessions").iterdir()) and time.monotonic() < until:
        time.sleep(0.2)
    assert list((folder / "sessions").iterdir()) == []  # who leaves takes their files along


def test_keyboard_and_labels_suffice(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("button", name="Scene 1").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove Image").wait_for()
    for role, name in [
        ("textbox", "Classes"), ("textbox", "Words of the background"), ("radio", "General words"),
        ("radio", "Own words"), ("tab", "Classes"), ("tab", "Scores"), ("button", "Settings"),
    ]:  # fmt: skip
        page.get_by_role(role, name=name).first.wait_for()
    page.get_by_role("button", name="Settings").focus()
    page.keyboard.press("Enter")
    for label in (
        "Method",
        "One label per region",
        "Refine along the image's edges",
        "Five views",
        "Background threshold",
        "Definitions",
    ):
        page.get_by_label(label).first.wait_for()
    page.get_by_role("radio", name="Own words").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # None, which has no words
    page.get_by_role("textbox", name="Words of the background").wait_for(state="detached")
    visitor.classes.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("bus")
    page.keyboard.press("Enter")
    page.keyboard.type("water")
    page.keyboard.press("Shift+Enter")
    visitor.wait_for_legend("bus")
    assert len(visitor.rows()) == 2


def test_fits_a_phone(chromium: Any, server: Server) -> None:
    visitor = Visitor(chromium, server, 390, 844)
    visitor.page.get_by_role("button", name="Scene 1").click()
    visitor.page.get_by_role("button", name="Remove Image").wait_for()
    visitor.button.click()
    visitor.wait_for_legend("bus")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.context.close()
    assert visitor.complaints == []
