"""The example clients of the HTTP API: curl, Python, Label Studio."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra 'web'")
pytest.importorskip("prometheus_client", reason="the server needs the extra 'web'")

import httpx
from web_helpers import Server, free_port, running_server

from itaclip import Segmenter
from itaclip.apps.web.request import FIELDS
from itaclip.apps.web.response import Segmentation

TOKEN = "a-token-of-the-tests"
TEXT = "bus, city bus; fence; house"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("api")
    with running_server(folder, "--api", "alone", "--set", "pamr_steps=0", ITACLIP_API_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture
def photo(demo_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(demo_root / "JPEGImages/scene_003.jpg", tmp_path / "photo.jpg"))


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    return dict(os.environ) | {"ITACLIP_API": server.address, "ITACLIP_API_TOKEN": TOKEN}


def test_python_client(environment: dict[str, str], quick: Segmenter, photo: Path) -> None:
    client = ROOT / "examples/http/segment.py"
    command = [sys.executable, str(client), TEXT, str(photo)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    expected = quick(photo, quick.prepare(["bus, city bus", "fence", "house"]))
    for name, share in expected.areas.items():
        assert f"{name} {share:.1%}" in found.stdout
    with Image.open(photo.with_name("photo_mask.png")) as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.labels)
    refused = subprocess.run([*command[:2], "cat; cat", str(photo)], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "'cat' already occurs on line 1" in refused.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_client(environment: dict[str, str], quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    command = [str(ROOT / "examples/http/segment.sh"), str(photo), TEXT, str(out)]
    subprocess.run(command, env=environment, check=True)
    expected = quick(photo, quick.prepare(["bus, city bus", "fence", "house"])).overlay()
    with Image.open(out) as overlay:
        np.testing.assert_array_equal(np.asarray(overlay), np.asarray(expected))
    refused = subprocess.run(command, env=environment | {"ITACLIP_API_TOKEN": "wrong"}, capture_output=True)
    assert refused.returncode == 22


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_commands_of_the_guide_run(server: Server, quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/http.md").read_text()
    (block,) = re.findall(r"```bash\n(curl .*?)```", text, re.DOTALL)
    script = block.replace("http://127.0.0.1:7860", server.address)
    environment = dict(os.environ) | {"ITACLIP_API_TOKEN": TOKEN}
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert Image.open(tmp_path / "overlay.png").format == "PNG"
    exported = json.loads((tmp_path / "photo.geojson").read_text())
    expected = quick(photo, quick.prepare(["cat", "sofa, couch"])).to_geojson()
    for found, wanted in zip(exported["features"], expected["features"], strict=True):
        assert found["properties"]["name"] == wanted["properties"]["name"]
        assert found["geometry"] == json.loads(json.dumps(wanted["geometry"]))


def test_python_code_of_the_guide_runs(
    server: Server, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/http.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITACLIP_API_TOKEN", TOKEN)
    exec(compile(block.replace("http://127.0.0.1:7860", server.address), "http.md", "exec"), {})
    assert Image.open(tmp_path / "mask.png").mode == "P"


def test_the_answer_in_the_guide_has_the_fields_of_answers() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/http.md").read_text(), re.DOTALL)
    shown = json.loads(block)
    assert Segmentation.model_validate(shown).model_dump(mode="json") == shown


class Recorder(BaseHTTPRequestHandler):
    """A server that answers every request alike and keeps what it was sent."""

    seen: ClassVar[list[tuple[str | None, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.headers["Authorization"], body.decode("latin-1")))
        answer = json.dumps({"classes": [], "mask": "", "result": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def recorder() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("token", [None, "", TOKEN])
@pytest.mark.parametrize("client", ["segment.py", "segment.sh", "guide, curl", "guide, Python", "Label Studio"])
def test_clients_send_a_token_only_if_there_is_one(
    recorder: str, photo: Path, monkeypatch: pytest.MonkeyPatch, client: str, token: str | None
) -> None:
    if client in ("segment.sh", "guide, curl") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if client == "Label Studio" and importlib.util.find_spec("label_studio_ml") is None:
        pytest.skip("needs label-studio-ml")
    guide = (ROOT / "docs/http.md").read_text().replace("http://127.0.0.1:7860", recorder)
    commands = {
        "segment.py": [sys.executable, str(ROOT / "examples/http/segment.py"), TEXT, str(photo)],
        "segment.sh": [str(ROOT / "examples/http/segment.sh"), str(photo), TEXT, "out.png"],
        "guide, curl": ["sh", "-euc", re.findall(r"```bash\n(curl .*?)```", guide, re.DOTALL)[0]],
        "guide, Python": [sys.executable, "-c", re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0]],
        "Label Studio": [
            sys.executable,
            "-c",
            "import backend, pathlib; backend.segment(pathlib.Path('photo.jpg'), [['cat']])",
        ],
    }
    monkeypatch.setenv("ITACLIP_API", recorder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples/label_studio"))
    monkeypatch.delenv("ITACLIP_API_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("ITACLIP_API_TOKEN", token)
    Recorder.seen.clear()
    subprocess.run(commands[client], cwd=photo.parent, check=True, capture_output=True, timeout=400)
    assert {sent for sent, _ in Recorder.seen} == {f"Bearer {token}" if token else None}
    for _, body in Recorder.seen:  # every field that a client names is one of the server's
        named = re.findall(r'form-data; name="(\w+)"', body) or list(json.loads(body))
        assert {"image", "classes"} <= set(named) <= set(FIELDS)


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="needs locust")
@pytest.mark.slow
def test_load_test_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/load_test.py"), "--clients", "3", "--seconds", "3", "--scenes", "2",
               "--queue-size", "1", "--out", str(tmp_path / "load.json")]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stdout + found.stderr
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["images"] == report["answered_by_server"] >= 3
    assert report["failures"] == 0
    assert report["told_to_come_back"] > 0
    assert 0 < report["seconds_per_image"]["p50"] <= report["seconds_per_image"]["p95"]
    assert report["server_memory_mib"]["highest"] > 100


CONFIG = """<View><Image name="picture" value="$photo"/><BrushLabels name="brush" toName="picture">
<Label value="bus, city bus"/><Label value="fence"/><Label value="house"/><Label value="background"/>
</BrushLabels></View>"""


@pytest.mark.skipif(importlib.util.find_spec("label_studio_ml") is None, reason="needs label-studio-ml")
def test_label_studio_backend(
    environment: dict[str, str], quick: Segmenter, photo: Path, tmp_path: Path, demo_root: Path
) -> None:
    from test_export import decode_brush

    port = free_port()
    variables = environment | {
        "PORT": str(port), "MODEL_DIR": str(tmp_path / "models"), "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(tmp_path),
    }  # fmt: skip
    backend = subprocess.Popen([sys.executable, str(ROOT / "examples/label_studio/backend.py")], env=variables)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    assert client.get("/health").json()["status"] == "UP"
                    break
                except httpx.TransportError:
                    assert backend.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.2)
            project = {"project": "1.1700000000", "schema": CONFIG}
            assert client.post("/setup", json=project).status_code == 200
            url = f"/data/local-files/?d={quote(photo.name)}"
            tasks = [{"id": n, "data": {"photo": url}} for n in range(2)]
            answer = client.post("/predict", json={"tasks": tasks, "project": "1.1700000000", "label_config": CONFIG})
            assert answer.status_code == 200, answer.text
    finally:
        backend.terminate()
        backend.wait(20)
    expected = quick(photo, quick.prepare(["bus, city bus", "fence", "house"]))
    results = answer.json()["results"]
    assert len(results) == 2
    for prediction in results:
        masks = {}
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == ("brush", "picture")
            mask = decode_brush(region["value"]["rle"], region["original_height"], region["original_width"])
            masks[region["value"]["brushlabels"][0]] = mask
        assert set(masks) == {{"bus": "bus, city bus"}.get(name, name) for name in expected.areas} - {"background"}
        for label, mask in masks.items():
            np.testing.assert_array_equal(mask, expected.mask(label.split(",")[0]))
