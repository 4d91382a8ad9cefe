"""The HTTP API as clients meet it: a real server, good requests and bad ones, load, stop."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra 'web'")
pytest.importorskip("prometheus_client", reason="the server needs the extra 'web'")

import httpx
from web_helpers import Server, running_server, write_bomb

from itaclip import ItaclipError, Segmenter
from itaclip.apps.command import serve as serve_command
from itaclip.apps.web.api import make_api
from itaclip.apps.web.job_queue import JobQueue, QueueClosedError, QueueFullError
from itaclip.apps.web.limits import Limits
from itaclip.core.settings import Settings

CLASSES = ["bus, city bus", "fence", "house"]
TEXT = "bus, city bus; fence; house"
TOKEN = "a-token-of-the-tests"
QUICK = ("--set", "pamr_steps=0")
SLOW = {"views": "true", "refine": "true"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("api")
    options = ("--api", "alone", "--upload-time", "2", "--max-words", "40", *QUICK)
    with running_server(folder, *options, ITACLIP_API_TOKEN=TOKEN) as running:
        yield running
        assert list(running.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def scene(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_003.jpg"


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=60) as client:
        yield client


def upload(client: httpx.Client, photo: bytes | Path, /, **fields: str) -> httpx.Response:
    content = photo.read_bytes() if isinstance(photo, Path) else photo
    return client.post("/v1/segment", files={"image": ("mine.jpg", content)}, data={"classes": TEXT} | fields)


def send_json(client: httpx.Client, photo: Path, /, **fields: Any) -> httpx.Response:
    body = {"image": base64.b64encode(photo.read_bytes()).decode(), "classes": CLASSES} | fields
    return client.post("/v1/segment", json=body)


def labels_of(png: bytes) -> Any:
    with Image.open(io.BytesIO(png)) as opened:
        return np.asarray(opened)


def log_lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


# --- good requests -----------------------------------------------------------


def test_multipart_and_json_give_the_segmenter_s_labels(client: httpx.Client, quick: Segmenter, scene: Path) -> None:
    expected = quick(scene, quick.prepare(CLASSES))
    for answer in (upload(client, scene), send_json(client, scene), send_json(client, scene, classes=TEXT)):
        assert answer.status_code == 200, answer.text
        found = answer.json()
        np.testing.assert_array_equal(labels_of(base64.b64decode(found["mask"])), expected.labels)
        assert (found["height"], found["width"]) == expected.labels.shape
        assert [entry["name"] for entry in found["classes"]] == list(expected.names)
        for entry in found["classes"]:
            assert entry["area"] == pytest.approx(expected.areas.get(entry["name"], 0))
            assert (entry["score"] is None) == (entry["name"] not in expected.areas)
            assert entry["color"] == list(expected.colors[entry["label"]])
    assert len(expected.areas) > 1


@pytest.mark.parametrize(
    ("fields", "background", "settings"),
    [
        ({"background": False}, False, {}),
        ({"background": "none"}, False, {}),
        ({"background": ["water", "wood"]}, ["water", "wood"], {}),
        ({"background": "water, wood"}, ["water", "wood"], {}),
        ({"threshold": 0.9}, True, {"prob_thd": 0.9}),
        ({"refine": True, "method": "naclip", "views": True}, True,
         {"pamr_steps": 10, "method": "naclip", "img_engineering": True}),
    ],
)  # fmt: skip
def test_fields_are_the_settings_they_say(
    client: httpx.Client, quick: Segmenter, scene: Path, fields: dict[str, Any], background: Any, settings: dict
) -> None:
    answer = send_json(client, scene, output="mask", **fields)
    assert answer.headers["content-type"] == "image/png"
    expected = quick(scene, quick.prepare(CLASSES, background), **settings)
    np.testing.assert_array_equal(labels_of(answer.content), expected.labels)


def test_every_output(client: httpx.Client, quick: Segmenter, scene: Path) -> None:
    expected = quick(scene, quick.prepare(CLASSES))
    offered = client.get("/v1/info").json()["outputs"]
    found = {output: upload(client, scene, output=output) for output in offered}
    assert set(found) >= {"json", "mask", "overlay", "geojson", "label_studio"}
    np.testing.assert_array_equal(labels_of(found["mask"].content), expected.labels)
    assert labels_of(found["overlay"].content).shape == np.asarray(expected.overlay()).shape
    assert found["geojson"].json()["features"][0]["geometry"] == json.loads(json.dumps(expected.to_geojson()))[
        "features"][0]["geometry"]  # fmt: skip
    regions = found["label_studio"].json()["result"]
    assert [region["value"] for region in regions] == [
        region["value"] for region in expected.to_label_studio()["result"]
    ]
    if "coco" in offered:
        assert found["coco"].json()["images"][0]["file_name"] == "mine.jpg"


def test_definitions_in_either_form(client: httpx.Client, scene: Path) -> None:
    text = upload(client, scene, definitions="fence >=pointed pales\nbus >=a long vehicle")
    fields = send_json(client, scene, definitions={"fence": "pointed pales", "bus": "a long vehicle"})
    plain = upload(client, scene)
    scores = [[entry["score"] for entry in answer.json()["classes"]] for answer in (text, fields, plain)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0] != pytest.approx(scores[2], abs=1e-5)


def test_warnings_reach_the_client(client: httpx.Client, scene: Path) -> None:
    (warning,) = upload(client, scene, classes="fence; кошка").json()["warnings"]
    assert "trained on English" in warning


def test_health_info_and_docs(server: Server, client: httpx.Client) -> None:
    assert httpx.get(f"{server.address}/v1/health").json() == {"status": "ok"}
    info = client.get("/v1/info").json()
    assert info["limits"] == {
        "megapixels": 1.0, "upload_mb": 2.0, "words": 40, "characters": 50_000, "seconds": 120.0, "queue": 2,
    }  # fmt: skip
    assert info["model"] == "Method itaclip, model demo"
    assert "naclip" in info["methods"]
    schema = httpx.get(f"{server.address}/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    assert set(schema["paths"]) == {"/v1/segment", "/v1/health", "/v1/info", "/metrics"}
    page = httpx.get(f"{server.address}/v1/docs")
    assert "POST /v1/segment" in page.text
    assert "http" not in page.text.replace("HTTP", "")  # nothing is loaded from elsewhere
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_every_answer_has_headers_and_a_name(server: Server, client: httpx.Client, scene: Path) -> None:
    for answer in (client.get("/v1/info"), httpx.get(f"{server.address}/v1/info"), client.get("/nowhere"),
                   upload(client, b"x")):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]
        assert "server" not in answer.headers
    assert client.get("/v1/info", headers={"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
    assert client.get("/v1/info", headers={"X-Request-ID": 'a"b'}).headers["x-request-id"] != 'a"b'


# --- bad requests ------------------------------------------------------------


def test_the_token_is_asked_for(server: Server, scene: Path) -> None:
    for path in ("/v1/info", "/metrics", "/v1/segment", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                        {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer"}):  # fmt: skip
            answer = httpx.request("POST" if path == "/v1/segment" else "GET", server.address + path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "token" in answer.json()["detail"]
            assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"classes": " "}, 422, "class list is empty"),
        ({"classes": "cat; dog; cat"}, 422, "'cat' already occurs on line 1"),
        ({"classes": "; ".join(map(str, range(41)))}, 422, "41 words"),
        ({"classes": "x" * 50_001}, 422, "characters of text; at most 50,000"),
        ({"class": "cat"}, 422, "unknown field 'class'. Did you mean 'classes'"),
        ({"method": "best"}, 422, "method = 'best': expected one of"),
        ({"output": "exe"}, 422, "output = 'exe': expected one of json, mask"),
        ({"threshold": "much"}, 422, "threshold = 'much': expected a number"),
        ({"threshold": "7"}, 422, "threshold = '7': expected a number in [0, 1]"),
        ({"threshold": "nan"}, 422, "threshold = 'nan': expected a number in [0, 1]"),
        ({"threshold": "-0.1"}, 422, "threshold = '-0.1': expected a number in [0, 1]"),
        ({"refine": "perhaps"}, 422, "refine = 'perhaps': expected true or false"),
        ({"definitions": "dog"}, 422, "has no ' >='"),
        ({"image": "x"}, 422, "image: expected a file"),
        ({"x" * 300: "y"}, 422, "unknown field 'xxx"),
    ],
)
def test_bad_fields_of_a_form(
    client: httpx.Client, scene: Path, fields: dict[str, str], status: int, message: str
) -> None:
    answer = upload(client, scene, **fields)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"classes": None}, 422, "classes = 'None'"),
        ({"classes": [1]}, 422, "classes = '[1]'"),
        ({"classes": [["a", 1]]}, 422, "classes ="),
        ({"classes": ["cat; dog"]}, 422, "classes ="),
        ({"background": 7}, 422, "background = '7'"),
        ({"definitions": ["x"]}, 422, "definitions ="),
        ({"definitions": {"dog": "an animal"}}, 422, "definition of 'dog'"),
        ({"threshold": "0.1"}, 422, "threshold = '0.1': expected a number"),
        ({"threshold": True}, 422, "threshold = 'True': expected a number"),
        ({"refine": "yes"}, 422, "refine = 'yes': expected true or false"),
        ({"method": 1}, 422, "method = '1': expected a text"),
        ({"name": 1}, 422, "name = '1': expected a text"),
        ({"output": ["mask"]}, 422, "output ="),
        ({"image": "???"}, 422, "image: not base64"),
        ({"image": ""}, 422, "image: send a file"),
        ({"image": 1}, 422, "image: send a file"),
        ({"image": "http://127.0.0.1/cat.png"}, 422, "image: not base64"),
    ],
)
def test_bad_fields_of_json(
    client: httpx.Client, scene: Path, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = send_json(client, scene, **fields)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


def test_bad_images_and_bodies(server: Server, client: httpx.Client, scene: Path, tmp_path: Path) -> None:
    large = io.BytesIO()
    Image.new("RGB", (1100, 1000)).save(large, "PNG")
    cases: list[tuple[httpx.Response, int, str]] = [
        (upload(client, b"no image"), 422, "mine.jpg: not an image"),
        (upload(client, scene.read_bytes()[:3000]), 422, "mine.jpg: damaged"),
        (upload(client, b""), 422, "image: send a file"),
        (upload(client, write_bomb(tmp_path / "bomb.png")), 413, "mine.jpg: 15000 x 15000 pixels"),
        (upload(client, large.getvalue()), 413, "1100 x 1000 pixels; at most 1,000,000"),
        (upload(client, bytes(3_100_000)), 413, "Too large: at most 2 MB are accepted"),
        (upload(client, bytes(2_000_001)), 413, "Too large: at most 2 MB are accepted"),
        (upload(client, bytes(2_000_000)), 422, "mine.jpg: not an image"),
        (client.post("/v1/segment", data={"classes": "cat"}), 415, "multipart/form-data or application/json"),
        (client.post("/v1/segment", content=b"x"), 415, "multipart/form-data or application/json"),
        (client.post("/v1/segment", content=iter([b"x"])), 411, "length"),
        (client.post("/v1/segment", content=b"{", headers={"Content-Type": "application/json"}), 400, "Not JSON"),
        (client.post("/v1/segment", content=b"[" * 99_999, headers={"Content-Type": "application/json"}), 400, "Not"),
        (client.post("/v1/segment", content=b"", headers={"Content-Type": "application/json"}), 400, "Not JSON"),
        (client.post("/v1/segment", json=["x"]), 422, "a JSON object"),
        (client.post("/v1/segment", json="x"), 422, "a JSON object"),
        (client.post("/v1/segment", json=None, headers={"Content-Type": "application/json"}), 400, "Not JSON"),
        (client.post("/v1/segment", data={"classes": "a"}, files={"image": ("", b"")}), 422, "image: expected a file"),
        (client.post("/v1/segment", json={"classes": "cat"}), 422, "image: send a file"),
        (client.post("/v1/segment", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "Not multi"),
        (client.post("/v1/segment", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=a"}), 400,
         "Not multi"),
        (client.post("/v1/segment", files={"photo": b"x"}), 422, "unknown field 'photo'. Did you mean 'image'?"),
        (client.post("/v1/segment", files={"image": b"x"}), 422, "classes: name them"),
        (client.post("/v1/segment", files=[("image", b"x"), ("image", b"y")]), 400, "Too many files"),
        (client.get("/v1/segment"), 405, "Method Not Allowed"),
        (client.get("/nowhere"), 404, "Not Found"),
        (client.get("/v1/info", headers={"Origin": "http://example.org"}), 403, "other sites"),
    ]  # fmt: skip
    for answer, status, message in cases:
        assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
        for secret in (str(server.temporary), "site-packages", "Traceback", "/tmp"):
            assert secret not in answer.text
    assert "Traceback" not in server.log.read_text()  # none of these is the server's fault
    assert upload(client, scene).status_code == 200


# --- images and lists as text ------------------------------------------------


def spellings(content: bytes) -> dict[str, str]:
    """Base64 of the same bytes as programs write it."""
    plain, safe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    return {
        "lines of 76": base64.encodebytes(content).decode(),
        "lines of 64, indented": "\r\n    ".join(plain[i : i + 64] for i in range(0, len(plain), 64)),
        "URL-safe": safe,
        "URL-safe, unpadded": safe.rstrip("="),
        "unpadded": plain.rstrip("="),
        "data URL": f"data:image/jpeg;base64,{plain}",
        "data URL with a parameter": f"DATA:image/jpeg;name=mine.jpg;BASE64,{plain}",
        "data URL without a type": f"data:;base64,{plain}",
        "data URL, percent-encoded": f"data:image/jpeg;base64,{plain.replace('+', '%2B').replace('=', '%3D')}",
        "data URL, URL-safe in lines": "data:image/jpeg;base64,"
        + "\n".join(safe[i : i + 76] for i in range(0, len(safe), 76)),
    }


@pytest.mark.parametrize("length", [0, 1, 2])
def test_every_spelling_of_base64_gives_the_same_labels(
    client: httpx.Client, quick: Segmenter, scene: Path, length: int
) -> None:
    content = scene.read_bytes()
    content += bytes((length - len(content)) % 3)  # 0, 1 and 2 bytes beyond whole groups; JPEG ignores what follows
    expected = quick(scene, quick.prepare(CLASSES)).labels
    assert {"+", "/"} <= set(base64.b64encode(content).decode())
    for kind, text in spellings(content).items():
        answer = send_json(client, scene, image=text, output="mask")
        assert answer.status_code == 200, (kind, answer.text)
        np.testing.assert_array_equal(labels_of(answer.content), expected, err_msg=kind)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("iVBO Rw0K", "' ' at character 5; was a + sent as a blank?"),
        ("iVBORw0K.png", "'.' at character 9"),
        ("ab+_", "mixes the alphabets"),
        ("iVBORw0KG", "its end is missing"),
        ("iVBORw0=", None),
        ("iVBORw0==", "2 signs = at its end, expected 1"),
        ("iVBO=Rw0", "'=' at character 5"),
        ("data:image/png,iVBO", "expected a data URL such as"),
        ("data:image/png;base64", "expected a data URL such as"),
        ("data:image/png;base64,???", "'?' at character 1"),
        ("фото", "'ф' at character 1"),
    ],
)
def test_what_is_not_base64_is_refused_with_the_place(
    client: httpx.Client, scene: Path, image: str, reason: str | None
) -> None:
    answer = send_json(client, scene, image=image)
    assert answer.status_code == 422
    if reason is None:  # valid base64, but no image
        assert "image: not an image" in answer.json()["detail"]
    else:
        assert answer.json()["detail"].startswith("image: not base64")
        assert reason in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "prepared"),
    [
        ({"classes": '["bus, city bus", "fence", "house"]'}, {}),
        ({"classes": ' [["bus", "city bus"], ["fence"], "house"]'}, {}),
        ({"classes": ["bus, city bus", "fence", "house"]}, {}),
        ({"classes": ["bus, city bus; fence", "house\n"]}, {}),
        ({"classes": TEXT, "background": '["water", "wood"]'}, {"background": ["water", "wood"]}),
        ({"classes": TEXT, "background": ["water", "wood"]}, {"background": ["water", "wood"]}),
        ({"classes": TEXT, "background": "false"}, {"background": False}),
        ({"classes": TEXT, "background": "true"}, {}),
        ({"classes": TEXT, "background": "wall, true"}, {"background": ["wall", "true"]}),
        ({"classes": TEXT, "definitions": '{"fence": "pointed pales"}'}, {"definitions": {"fence": "pointed pales"}}),
    ],
)
def test_lists_in_a_form(
    client: httpx.Client, quick: Segmenter, scene: Path, fields: dict[str, Any], prepared: dict[str, Any]
) -> None:
    answer = client.post("/v1/segment", files={"image": scene.read_bytes()}, data=fields)
    assert answer.status_code == 200, answer.text
    expected = quick(scene, quick.prepare(CLASSES, **prepared), scores="full")
    assert [entry["name"] for entry in answer.json()["classes"]] == list(expected.names)
    np.testing.assert_array_equal(labels_of(base64.b64decode(answer.json()["mask"])), expected.labels)
    for entry in answer.json()["classes"]:
        if entry["score"] is not None:
            scores = expected.score_map(entry["label"])
            assert scores.min() - 1e-5 <= entry["score"] <= scores.max() + 1e-5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": "['sky', 'house']"}, "classes = \"['sky', 'house']\": begins like JSON but is none"),
        ({"classes": '["sky"'}, "begins like JSON but is none"),
        ({"classes": "[sky, house]"}, 'such as ["sky", "house"], or a text such as "sky; house"'),
        ({"classes": "[1, 2]"}, "expected a text or a list of texts"),
        ({"classes": '{"sky": "blue"}'}, "expected a text or a list of texts"),
        ({"classes": '["sky; house"]'}, "expected a text or a list of texts"),
        ({"background": '[["a"], 7]'}, "background = "),
        ({"definitions": '{"fence": 7}'}, "definitions = "),
        ({"definitions": '["fence"]'}, "definitions = "),
        ({"definitions": '{"fence": "a", "fence": "b"}'}, "fence: sent twice"),
        ({"classes": ""}, "classes: empty; name words, or leave the field out"),
        ({"background": ""}, "background: empty; name words, or leave the field out"),
        ({"refine": ["true", "false"]}, "refine: sent twice"),
        ({"method": ["clip", "clip"]}, "method: sent twice"),
        ({"definitions": ["bus >=a", "fence >=b"]}, "definitions: sent twice"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(
    client: httpx.Client, scene: Path, fields: dict[str, Any], message: str
) -> None:
    answer = upload(client, scene, **fields)
    assert (answer.status_code, message in answer.json()["detail"]) == (422, True), answer.text


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("file", "image"), ("photo", "image"), ("Image", "image"), ("labels", "classes"), ("classes[]", "classes"),
     ("candidate_labels", "classes"), ("filename", "name"), ("treshold", "threshold"), ("format", "output")],
)  # fmt: skip
def test_unknown_fields_are_answered_with_the_known_one(
    client: httpx.Client, scene: Path, sent: str, meant: str
) -> None:
    content, path = scene.read_bytes(), "/v1/segment"
    encoded = {"image": base64.b64encode(content).decode(), "classes": TEXT}
    answers = [
        upload(client, scene, **{sent: "x"}),
        client.post(path, files={sent: ("mine.jpg", content)}, data={"classes": TEXT}),  # and no image
        client.post(path, json=encoded | {sent: "x"}),
        client.post(path, json={"classes": TEXT, sent: encoded["image"]}),
    ]
    for answer in answers:
        detail = answer.json()["detail"]
        assert answer.status_code == 422
        assert detail.startswith(f"unknown field '{sent}'. Did you mean '{meant}'? Fields: image, name, classes, ")


@pytest.mark.parametrize("name", ["classes", "image", "zebra"])
def test_a_json_key_sent_twice_is_refused(client: httpx.Client, name: str) -> None:
    body = f'{{"image": "AAAA", "{name}": "a", "x": {{}}, "{name}": "b"}}'
    answer = client.post("/v1/segment", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, f"{name}: sent twice.")


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ";".join("x" * 30_000)},
        {"classes": ["x"] * 50_001},
        {"definitions": {str(i): "a long text" for i in range(5_000)}},
        {"background": [["water" * 100] * 50, ["wood" * 100] * 100]},
    ],
)
def test_too_much_text_is_refused_before_it_is_split(client: httpx.Client, scene: Path, fields: dict[str, Any]) -> None:
    answer = send_json(client, scene, **fields)
    assert (answer.status_code, "characters of text; at most 50,000" in answer.text) == (422, True), answer.text[:300]


# --- the schema --------------------------------------------------------------


def test_the_openapi_document_is_complete(server: Server, client: httpx.Client, scene: Path) -> None:
    schema = httpx.get(f"{server.address}/v1/openapi.json").json()

    def resolved(entry: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in entry:
            found: Any = schema
            for part in entry["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            entry = found
        return entry

    names = ["image", "name", "classes", "background", "definitions", "method", "refine", "correct", "views",
             "threshold", "output"]  # fmt: skip
    operation = schema["paths"]["/v1/segment"]["post"]
    bodies = operation["requestBody"]["content"]
    assert set(bodies) == {"multipart/form-data", "application/json"}
    for body in bodies.values():
        fields = resolved(body["schema"])
        assert sorted(fields["properties"]) == sorted(names)
        assert fields["required"] == ["image"]
        assert fields["additionalProperties"] is False
        assert all(field["description"] and ("type" in field or "anyOf" in field)
                   for field in map(resolved, fields["properties"].values()))  # fmt: skip
        assert fields["properties"]["output"]["enum"] == client.get("/v1/info").json()["outputs"]
        assert (fields["properties"]["threshold"]["minimum"], fields["properties"]["threshold"]["maximum"]) == (0, 1)
        for example in fields["properties"]["classes"]["examples"]:  # they work as they stand
            assert send_json(client, scene, classes=example, output="mask").status_code == 200
    image = resolved(bodies["multipart/form-data"]["schema"])["properties"]["image"]
    assert "binary" in image.get("format", "") or image.get("contentMediaType") == "application/octet-stream"

    documented = {"200", "400", "401", "403", "408", "411", "413", "415", "422", "429", "500", "503", "504"}
    assert set(operation["responses"]) == documented
    rows = re.findall(r"^\| ([\d, ]+) \|", (ROOT / "docs/http.md").read_text(), re.MULTILINE)
    assert {status for row in rows for status in row.split(", ")} == documented
    for status, answer in operation["responses"].items():
        assert answer["description"]
        if status != "200":
            problem = resolved(answer["content"]["application/json"]["schema"])
            assert problem["properties"]["detail"]["type"] == "string"
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "image/png", "application/x-ndjson"}

    for path, answer in (("/v1/segment", upload(client, scene)), ("/v1/info", client.get("/v1/info")),
                         ("/v1/health", client.get("/v1/health"))):  # fmt: skip
        (method,) = schema["paths"][path].values()
        model = resolved(method["responses"]["200"]["content"]["application/json"]["schema"])
        assert set(answer.json()) == set(model["properties"])
    found = upload(client, scene).json()["classes"][0]
    model = resolved(content["application/json"]["schema"])
    assert set(found) == set(resolved(model["properties"]["classes"]["items"])["properties"])

    (scheme,) = schema["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    secured = {path for path, methods in schema["paths"].items() for method in methods.values() if "security" in method}
    assert secured == {"/v1/segment", "/v1/info", "/metrics"}
    page = httpx.get(f"{server.address}/v1/docs").text
    assert all(f"<code>{name}</code>" in page for name in names)


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "bearer   "])
def test_an_empty_token_is_told_from_a_wrong_one(server: Server, value: str) -> None:
    parts = urlsplit(server.address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", "/v1/info", headers={"Authorization": value})
    answer = connection.getresponse()
    detail = json.loads(answer.read())["detail"]
    connection.close()
    assert answer.status == 401
    assert "The token is empty: nothing follows the word Bearer" in detail
    assert "Authorization: Bearer TOKEN" in detail
    wrong = httpx.get(f"{server.address}/v1/info", headers={"Authorization": "Bearer wrong"})
    assert "This is not the server's token" in wrong.json()["detail"]


def raw(server: Server, body: bytes, length: int, accept: str = "*/*") -> socket.socket:
    """A connection that has sent the head of a request and a part of its body."""
    parts = urlsplit(server.address)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    head = (f"POST /v1/segment HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Accept: {accept}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")  # fmt: skip
    connection.sendall(head.encode() + body)
    return connection


def test_a_slow_client_is_given_up(server: Server, client: httpx.Client, scene: Path) -> None:
    with raw(server, b'{"image"', 1000) as connection:
        began = time.monotonic()
        answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 1 < time.monotonic() - began < 10
    assert upload(client, scene).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
def test_a_client_that_leaves_frees_the_worker(server: Server, client: httpx.Client, scene: Path, accept: str) -> None:
    raw(server, b'{"image"', 1000).close()  # in the middle of its request
    big = io.BytesIO()
    Image.open(scene).resize((1000, 900)).save(big, "PNG")
    fields = {"image": base64.b64encode(big.getvalue()).decode(), "classes": TEXT, "views": True, "refine": True}
    body = json.dumps(fields).encode()
    began = time.monotonic()
    assert client.post("/v1/segment", content=body, headers={"Content-Type": "application/json"}).status_code == 200
    whole = time.monotonic() - began
    gone = len(gone_clients(server))
    connection = raw(server, body, len(body), accept)
    wait_for(lambda: metric(client, "itaclip_running") == 1)
    computed = metric(client, "itaclip_segment_seconds_count")
    connection.close()  # while its image is computed
    began = time.monotonic()
    wait_for(lambda: metric(client, "itaclip_running") == 0)
    assert time.monotonic() - began < max(1.0, 0.8 * whole)
    assert metric(client, "itaclip_segment_seconds_count") == computed  # it was not finished
    assert metric(client, "itaclip_waiting") == 0
    wait_for(lambda: len(gone_clients(server)) > gone)
    assert upload(client, scene).status_code == 200


def gone_clients(server: Server) -> list[dict[str, Any]]:
    return [line for line in log_lines(server) if line.get("status") == 499]


def metric(client: httpx.Client, name: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


# --- load --------------------------------------------------------------------


def test_a_full_queue_says_when_to_come_back(client: httpx.Client, quick: Segmenter, scene: Path) -> None:
    """Queue 2: of seven at once most are refused, and none is lost when all come back."""
    expected = quick(scene, quick.prepare(CLASSES), img_engineering=True, pamr_steps=10).labels
    refused = []

    def visit(_: int) -> Any:
        for _ in range(200):
            answer = upload(client, scene, output="mask", **SLOW)
            if answer.status_code != 429:
                break
            assert int(answer.headers["retry-after"]) >= 1
            refused.append(answer.json()["detail"])
            time.sleep(0.3)
        assert answer.status_code == 200
        return labels_of(answer.content)

    with ThreadPoolExecutor(7) as pool:
        for labels in pool.map(visit, range(7)):
            np.testing.assert_array_equal(labels, expected)
    assert any("The queue is full" in text for text in refused)


def test_log_and_metrics_tell_requests_but_no_content(server: Server, client: httpx.Client, scene: Path) -> None:
    before = metric(client, "itaclip_segment_seconds_count")
    pixels = metric(client, "itaclip_pixels_total")
    answer = client.post(
        "/v1/segment?secret=query", files={"image": ("secret-name.jpg", scene.read_bytes())},
        data={"classes": "secret fence; house"}, headers={"X-Request-ID": "the-one"},
    )  # fmt: skip
    client.get("/secret/path")
    assert answer.status_code == 200
    (line,) = wait_for(lambda: [line for line in log_lines(server) if line.get("id") == "the-one"])
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/segment", 200)
    assert (line["height"], line["width"]) == (answer.json()["height"], answer.json()["width"])
    assert line["bytes"] == len(answer.content)
    assert 0 < line["computed"] <= line["seconds"]
    assert {line["path"] for line in log_lines(server) if line["message"] == "request"} <= {
        "/v1/segment", "/v1/info", "/v1/health", "/v1/docs", "/v1/openapi.json", "/metrics", "other"
    }  # fmt: skip
    assert "secret" not in server.log.read_text()
    assert TOKEN not in server.log.read_text()
    text = client.get("/metrics").text
    assert "secret" not in text
    assert metric(client, "itaclip_segment_seconds_count") == before + 1
    assert metric(client, "itaclip_pixels_total") == pixels + line["height"] * line["width"]
    assert metric(client, 'itaclip_requests_total{path="/v1/segment",status="200"}') >= 1
    assert metric(client, "process_resident_memory_bytes") > 1e7


def test_stopping_finishes_what_runs_and_refuses_what_waits(tmp_path: Path, scene: Path) -> None:
    big = io.BytesIO()
    Image.open(scene).resize((640, 560)).save(big, "PNG")
    with (
        running_server(tmp_path, "--api", "alone") as server,
        httpx.Client(base_url=server.address, timeout=60) as client,
    ):
        with ThreadPoolExecutor(3) as pool:
            running = pool.submit(upload, client, big.getvalue(), **SLOW)
            wait_for(lambda: metric(client, "itaclip_running") == 1)
            waiting = pool.submit(upload, client, scene)
            wait_for(lambda: metric(client, "itaclip_waiting") == 1)
            server.process.send_signal(signal.SIGTERM)
            assert waiting.result().status_code == 503
            assert "retry-after" in waiting.result().headers
            assert running.result().status_code == 200
            assert running.result().json()["classes"]
        assert server.process.wait(20) == 0
    assert list(server.temporary.iterdir()) == []


def test_computing_too_long_is_status_504(quick: Segmenter, scene: Path) -> None:
    limits = Limits(seconds=0.02)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(make_api(quick, "", limits, JobQueue(1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            files = {"image": ("mine.jpg", scene.read_bytes())}
            return await client.post("/v1/segment", files=files, data={"classes": TEXT} | SLOW)

    answer = asyncio.run(ask())
    assert answer.status_code == 504
    assert "stopped after 0.02 s, the limit of this server" in answer.json()["detail"]


# --- progress ----------------------------------------------------------------

NDJSON = {"Accept": "application/x-ndjson"}


def test_progress_comes_line_by_line_and_ends_with_the_answer(
    client: httpx.Client, quick: Segmenter, scene: Path
) -> None:
    body = {"image": base64.b64encode(scene.read_bytes()).decode(), "classes": CLASSES, "views": True, "refine": True}
    with client.stream("POST", "/v1/segment", json=body, headers=NDJSON) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert {line["state"] for line in lines[:-1]} <= {"waiting", "running"}
    shares = [line["share"] for line in lines[:-1] if line["state"] == "running"]
    assert shares == sorted(shares)
    assert max(shares) > 0
    assert lines[-1]["state"] == "done"
    expected = quick(scene, quick.prepare(CLASSES), img_engineering=True, pamr_steps=10)
    np.testing.assert_array_equal(labels_of(base64.b64decode(lines[-1]["answer"]["mask"])), expected.labels)


def test_errors_keep_their_status_when_progress_is_asked_for(client: httpx.Client, scene: Path) -> None:
    early = client.post("/v1/segment", json={"image": "???"}, headers=NDJSON)
    assert (early.status_code, early.json()["detail"].partition(": not base64")[0]) == (422, "image")
    late = upload_lines(client, b"no image")
    assert (late["state"], late["status"]) == ("failed", 422)
    assert "mine.jpg: not an image" in late["detail"]
    pictures = client.post(
        "/v1/segment", files={"image": scene.read_bytes()}, data={"classes": "cat", "output": "mask"}, headers=NDJSON
    )
    assert (pictures.status_code, "only with outputs that are JSON" in pictures.text) == (422, True)


def upload_lines(client: httpx.Client, photo: bytes) -> dict[str, Any]:
    """The last line."""
    answer = client.post("/v1/segment", files={"image": ("mine.jpg", photo)}, data={"classes": TEXT}, headers=NDJSON)
    assert answer.status_code == 200
    return json.loads(answer.text.splitlines()[-1])


def test_faults_of_the_server_are_logged_not_shown(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(headers: dict[str, str]) -> httpx.Response:
        # a segmenter that is none fails only once the image is segmented
        broken = SimpleNamespace(settings=Settings(), vocabulary=None, names=())
        transport = httpx.ASGITransport(make_api(broken, "", Limits(), JobQueue(1)))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            files = {"image": ("mine.jpg", scene.read_bytes())}
            return await client.post("/v1/segment", files=files, data={"classes": TEXT}, headers=headers)

    plain = asyncio.run(ask({}))
    detail = {"detail": "Something went wrong; the server's log says what."}
    assert (plain.status_code, plain.json()) == (500, detail)
    assert f"Request {plain.headers['x-request-id']} failed" in caplog.text
    assert "AttributeError" in caplog.text
    caplog.clear()
    reported = asyncio.run(ask(NDJSON))
    assert json.loads(reported.text.splitlines()[-1]) == {"state": "failed", "status": 500} | detail
    assert f"Request {reported.headers['x-request-id']} failed" in caplog.text
    assert "AttributeError" in caplog.text


# --- the queue and the command -----------------------------------------------


def test_a_queue_serves_in_order_and_refuses_beyond_its_capacity() -> None:
    queue, go, done = JobQueue(2), threading.Event(), []
    futures = [queue.submit(lambda n=n: (go.wait(10), done.append(n))) for n in range(3)]
    with pytest.raises(QueueFullError, match=r"The queue is full\. Try again in about 1 s"):
        queue.submit(lambda: None)
    assert [queue.ahead(future) for future in futures] == [0, 1, 2]
    assert futures[1].cancel()  # whoever leaves the queue frees its place
    assert queue.ahead(futures[2]) == 1
    last = queue.submit(lambda: done.append("last"))
    go.set()
    last.result(10)
    assert done == [0, 2, "last"]
    wait_for(lambda: queue.waiting == queue.running == 0)

    blocked = threading.Event()
    running = queue.submit(lambda: (blocked.set(), time.sleep(0.2), "finished")[-1])
    waiting = queue.submit(lambda: None)
    assert blocked.wait(10)
    queue.close()
    assert running.result() == "finished"
    assert waiting.cancelled()
    with pytest.raises(QueueClosedError):
        queue.submit(lambda: None)


@pytest.mark.parametrize("token", ["", "short", "with a blank in it", "täglich-neu-täglich-neu"])
def test_tokens_that_protect_nothing_are_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("ITACLIP_API_TOKEN", token)
    with pytest.raises(ItaclipError, match="ITACLIP_API_TOKEN: expected 16 or more ASCII characters") as refusal:
        serve_command.main(["--api", "alone"])
    assert not token or token not in str(refusal.value)


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client"])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = serve_command.find_spec
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name == missing else real(name))
    name = missing.replace("_", "-")
    with pytest.raises(
        ItaclipError, match=rf"the server needs {name}: install the extra 'web' .*pip install '\.\[web\]'"
    ):
        serve_command.main(["--model", "demo"])
