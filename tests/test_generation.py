"""Texts from chat models: which answers are accepted, and what happens to the others."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparation_helpers import ROOT, environment, fails_clearly, lines, run_script, visible
from processes import start_python

from itaclip.core.text import read_auxiliary_texts, read_class_names, read_class_prompts
from itaclip.errors import ItaclipError
from itaclip.research.texts.answers import DEFINITION, PROMPT, SYNONYM, Task, find_problem, tidy
from itaclip.research.texts.chat import Sampling, ServerChat
from itaclip.research.texts.commands import generate as program

TOKEN = "sk-never-to-be-seen-again"
CONFIGS = ROOT / "configs"


# --- answers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "task", "text"),
    [
        ("  a small furry animal. \n", DEFINITION, "a small furry animal."),
        ('"a small furry animal"', DEFINITION, "a small furry animal"),
        ("\u201ca small furry animal\u201d", DEFINITION, "a small furry animal"),
        ('a "tame" or "wild" animal', DEFINITION, 'a "tame" or "wild" animal'),
        ("a\u00a0furry animal", DEFINITION, "a furry animal"),
        ("<think>Hm.\nA cat.</think>\n\na furry animal", DEFINITION, "a furry animal"),
        ("Feline", SYNONYM, "feline"),
        ('"Feline."', SYNONYM, "feline"),
        ("'feline'.", SYNONYM, "feline"),
        ("t-shirt", SYNONYM, "t-shirt"),
    ],
)
def test_good_answers(answer: str, task: Task, text: str) -> None:
    assert tidy(answer, task) == text
    assert find_problem(text, "cat", task) is None


@pytest.mark.parametrize(
    ("answer", "task", "reason"),
    [
        ("", DEFINITION, "is empty"),
        (" \n ", SYNONYM, "is empty"),
        ("a furry animal\nthat purrs", DEFINITION, "more than one line"),
        ("a furry animal\u2028that purrs", DEFINITION, "more than one line"),
        ("a furry animal\x0bthat purrs", DEFINITION, "more than one line"),
        ("a furry \u200banimal", DEFINITION, "non-printable"),
        ("cat >=a furry animal", DEFINITION, "'>='"),
        ("Cat.", DEFINITION, "only repeats the name"),
        ("Cat", SYNONYM, "only repeats the name"),
        ("Cat: a furry animal", DEFINITION, "repeating the name"),
        ("**Cat** - a furry animal", DEFINITION, "repeating the name"),
        ("Sure, here is a definition: a furry animal", DEFINITION, "preamble"),
        ("Sure! A furry animal", DEFINITION, "preamble"),
        ("Here's the definition of a cat", DEFINITION, "preamble"),
        ("The definition of cat is a furry animal", DEFINITION, "preamble"),
        ("I can certainly help", DEFINITION, "preamble"),
        ("A definition follows:", DEFINITION, "preamble"),
        ("word " * 51, DEFINITION, "51 words"),
        ("house cat", SYNONYM, "2 words"),
        ("A synonym is feline", SYNONYM, "4 words"),
        ("123", SYNONYM, "not a word"),
        ("feline/kitty", SYNONYM, "not a word"),
    ],
)
def test_bad_answers(answer: str, task: Task, reason: str) -> None:
    assert reason in (find_problem(tidy(answer, task), "cat", task) or "accepted")


PLACES = "room garden street barn shop park field yard kitchen car box basket tree bed ship"
FIFTEEN = [f"a {place} with a cat in it" for place in PLACES.split()]


@pytest.mark.parametrize("form", ["{}", "{n}. {}", "- {}", '"{}"', "Here are 15:\n{}", "<think>Hm.</think>{}"])
def test_sentences_in_every_form(form: str) -> None:
    first, *others = FIFTEEN
    head, _, line = form.rpartition("\n")
    answer = "\n".join([*([head] if head else []), *(line.format(s, n=n) for n, s in enumerate([first, *others], 1))])
    answer = answer if "<think>" not in form else "<think>Hm.</think>" + "\n\n".join(FIFTEEN)
    assert tidy(answer, PROMPT).splitlines() == FIFTEEN
    assert find_problem(tidy(answer, PROMPT), "cat", PROMPT) is None


@pytest.mark.parametrize(
    ("sentences", "reason"),
    [
        ([], "is empty"),
        (FIFTEEN[:9], "9 lines instead of 15"),
        ([*FIFTEEN, "one more cat"], "16 lines instead"),
        ([*FIFTEEN[:14], FIFTEEN[0].upper()], "repeats a sentence"),
        ([*FIFTEEN[:14], "a dog on a chair"], "does not contain the word"),
        ([*FIFTEEN[:14], "cat " * 51], "51 words"),
        ([*FIFTEEN[:14], "I can also describe a cat"], "preamble"),
    ],
)
def test_bad_sentences(sentences: list[str], reason: str) -> None:
    assert reason in (find_problem(tidy("\n".join(sentences), PROMPT), "cat", PROMPT) or "accepted")


def test_word_limit() -> None:
    assert find_problem(" ".join(["word"] * 50), "cat", DEFINITION) is None


@given(st.text(), st.sampled_from([DEFINITION, SYNONYM]))
def test_accepted_answers_can_be_read_back(answer: str, task: Task) -> None:
    text = tidy(answer, task)
    if find_problem(text, "cat", task) is None:
        assert f"cat >={text}\n".splitlines() == [f"cat >={text}"]
        assert text.strip()
        assert ">=" not in text


# --- a server with every kind of answer --------------------------------------

Answer = Callable[[str, int], "str | int | None"]


class Server:
    """Answers ``/v1/chat/completions`` with a function of (class, number of requests).

    The function returns a text, an HTTP status, or None for garbage.
    """

    def __init__(self, answer: Answer) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                match = re.search(r'"([^"]+)"', body["messages"][0]["content"])
                assert match
                outer.asked[match[1]] += 1
                outer.requests.append(body)
                outer.headers.append(dict(self.headers))
                reply = answer(match[1], outer.asked[match[1]])
                status = reply if isinstance(reply, int) else 200
                content = json.dumps({"choices": [{"message": {"content": reply}}]})
                if status != 200:
                    content = json.dumps({"error": f"refused for {self.headers['Authorization']}"})
                payload = b"rubbish" if reply is None else content.encode()
                self.send_response(status)
                if status == 307:
                    self.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", TOKEN)
    monkeypatch.setattr(program, "ServerChat", partial(ServerChat, timeout=10, pause=0.01))
    servers = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("background, sky\ncat, kitten\ntraffic light\ncup\nsofa\n")
    return path


SOUND = {"cat": "a furry animal", "traffic light": "three lamps on a pole", "cup": "a vessel", "sofa": "a soft seat"}


def arguments(names: Path, url: str, *more: object) -> list[str]:
    fixed = ["--names", names, "--background", "--base-url", url, "--model", "m", "--out", names.with_name("texts.txt")]
    return [str(part) for part in (*fixed, *more)]


def generate(names: Path, server: Server, *more: object, task: Task = DEFINITION) -> int:
    return program.main(task, CONFIGS, arguments(names, server.url, *more))


def test_sentences_for_every_word_become_a_file_of_prompts(names: Path, serve: Callable[[Answer], Server]) -> None:
    def answer(name: str, times: int) -> str:
        sentences = [f"photo {number} of a {name}" for number in range(15)]
        return "\n".join(sentences[:3] if name == "kitten" and times == 1 else sentences)

    server = serve(answer)
    assert generate(names, server, "--out", names.with_name("p.json"), task=PROMPT) == 0
    classes = read_class_names(names, background=True)
    found = read_class_prompts(names.with_name("p.json"), classes)
    assert found is not None
    assert set(found) == set(classes.queries)  # words of the background and synonyms too
    assert found["kitten"] == tuple(f"photo {number} of a kitten" for number in range(15))
    assert server.asked["kitten"] == 2
    assert all(request["max_tokens"] >= 1000 for request in server.requests)
    asked = sum(server.asked.values())
    assert generate(names, server, "--out", names.with_name("p.json"), task=PROMPT) == 0  # already complete
    assert sum(server.asked.values()) == asked


def test_every_kind_of_answer_and_no_shifted_lines(names: Path, serve: Callable[[Answer], Server]) -> None:
    moods = {
        "cat": ["", "a\nb", "a furry animal"],
        "traffic light": [500, None, "Sure, here it is: a lamp", "three lamps on a pole"],
        "cup": ["a vessel"],
        "sofa": [429, 400, "sofa", "sofa: a seat", "a soft seat"],
    }
    server = serve(lambda name, times: moods[name][times - 1])
    assert generate(names, server) == 0
    out = names.with_name("texts.txt")
    assert lines(out) == [f"{name} >={text}" for name, text in SOUND.items()]
    classes = read_class_names(names, background=True)
    assert read_auxiliary_texts(out, classes, background=True) == tuple(SOUND.values())
    # the journal is deleted; the remaining file describes the origin of the texts, without a token
    assert visible(names.parent) == ["names.txt", "texts.txt", "texts.txt.provenance.json"]
    provenance = json.loads(out.with_name("texts.txt.provenance.json").read_text())
    assert provenance["model"] == "m"
    assert provenance["temperature"] == 0.6
    assert provenance["top_p"] == 0.9
    assert provenance["max_new_tokens"] == 256
    assert provenance["asks"] == {"cat": 3, "traffic light": 3, "cup": 1, "sofa": 4}
    assert TOKEN not in json.dumps(provenance)


def test_prompts_are_as_expected(names: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda name, times: SOUND[name] if times > 1 else "")
    assert generate(names, server, "--seed", 5, "--temperature", 0.3, "--top-p", 0.5, "--max-new-tokens", 9) == 0
    assert set(server.asked) == set(SOUND), "neither the background nor a second synonym is asked"
    for request in server.requests:
        assert (request["model"], request["temperature"], request["top_p"], request["max_tokens"]) == ("m", 0.3, 0.5, 9)
    assert len({request["seed"] for request in server.requests}) == 8, "every class and every try has its own seed"
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for headers in server.headers)
    again = [
        request for request in server.requests if "refused because it is empty" in request["messages"][0]["content"]
    ]
    assert len(again) == 4


def test_synonyms(names: Path, serve: Callable[[Answer], Server]) -> None:
    words = {"cat": '"Feline."', "traffic light": "signal", "cup": "mug", "sofa": "Couch"}
    assert generate(names, serve(lambda name, _: words[name]), task=SYNONYM) == 0
    assert [line.split(">=")[1] for line in lines(names.with_name("texts.txt"))] == ["feline", "signal", "mug", "couch"]


def test_incomplete_then_resumed(
    names: Path, serve: Callable[[Answer], Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda name, _: "two words\nof cup" if name == "cup" else SOUND[name])
    assert generate(names, server, "--attempts", 3) == 1
    assert server.asked == {"cat": 1, "traffic light": 1, "cup": 3, "sofa": 1}
    output = capsys.readouterr().out
    assert "1 of 4 classes without a definition" in output
    assert "has more than one line" in output
    assert not names.with_name("texts.txt").exists()

    better = serve(lambda name, _: SOUND[name])
    with pytest.raises(ItaclipError, match="was started with"):
        generate(names, better, "--seed", 1)
    # an incomplete line costs one answer, and the base URL must match
    journal = names.with_name("texts.txt.journal.jsonl")
    journal.write_text(journal.read_text().replace(server.url, better.url) + '{"name": "cu')
    assert generate(names, better) == 0
    assert better.asked == {"cup": 1}
    assert better.requests[0]["seed"] not in {request["seed"] for request in server.requests}
    assert lines(names.with_name("texts.txt"))[2] == "cup >=a vessel"

    assert generate(names, better) == 0
    assert better.asked == {"cup": 1}, "a complete file is left alone"
    assert generate(names, better, "--force") == 0
    assert better.asked == {"cat": 1, "traffic light": 1, "cup": 2, "sofa": 1}


def test_a_forced_run_resumes_too(names: Path, serve: Callable[[Answer], Server]) -> None:
    names.with_name("texts.txt").write_text("cat >=\ntraffic light >=\ncup >=\nsofa >=\n")
    poor = serve(lambda name, _: "" if name == "cup" else SOUND[name])
    with pytest.raises(ItaclipError, match=r"is empty\. --force replaces"):
        generate(names, poor)
    assert generate(names, poor, "--force", "--attempts", 1) == 1
    assert generate(names, poor, "--force", "--attempts", 1) == 1
    assert poor.asked == {"cat": 1, "traffic light": 1, "cup": 2, "sofa": 1}
    better = serve(lambda name, _: SOUND[name])
    assert generate(names, better, "--force") == 0, "a journal of another server is dropped when forced"
    assert sum(better.asked.values()) == 4


@pytest.mark.parametrize("status", [401, 404, 307, 500])
def test_failing_server(names: Path, serve: Callable[[Answer], Server], status: int) -> None:
    with pytest.raises(ItaclipError, match=str(status)) as caught:
        generate(names, serve(lambda *_: status))
    assert TOKEN not in str(caught.value)
    assert not names.with_name("texts.txt").exists()
    assert TOKEN not in "".join(path.read_text() for path in names.parent.iterdir())


def test_silent_server(names: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda *_: "")
    server.close()
    with pytest.raises(ItaclipError, match="Is the server running"):
        generate(names, server)
    with pytest.raises(ItaclipError, match="no answer"):
        list(ServerChat("http://127.0.0.1:1/v1", "m", Sampling(), pause=0.01).replies(["hello"], [0]))


@pytest.mark.parametrize("url", ["file:///etc", "localhost:11434", "http://me:secret@localhost/v1"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(ItaclipError, match="--base-url") as caught:
        ServerChat(url, "m", Sampling())
    assert "secret" not in str(caught.value)


def test_bad_usage(names: Path, tmp_path: Path) -> None:
    script = "tools/llama3_synonym_generation.py"
    fails_clearly(run_script(script, "--dataset", "voc12", "--out", tmp_path / "x.txt"), "voc12", "voc20")
    for more, message in (
        (("--attempts", "0"), "--attempts 0"),
        (("--batch-size", "0"), "--batch-size 0"),
        (("--temperature", "-1"), "temperature"),
        (("--top-p", "0"), "top_p"),
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--names", str(tmp_path / "none.txt")), "no such file"),
        (("--out", str(names / "x.txt")), "cannot be written"),
    ):
        with pytest.raises(ItaclipError, match=message):
            program.main(DEFINITION, CONFIGS, arguments(names, "http://127.0.0.1:9/v1", *more))
    for content, message in (("background\na >=b\n", "separates names"), ("background\n", "besides the background")):
        names.write_text(content)
        with pytest.raises(ItaclipError, match=message):
            program.main(DEFINITION, CONFIGS, arguments(names, "http://127.0.0.1:9/v1"))


def test_background_of_shipped_files_is_known(tmp_path: Path, serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda *_: "a thing")
    out = tmp_path / "voc21.txt"
    assert program.main(DEFINITION, CONFIGS, ["--dataset", "voc21", "--base-url", server.url, "--out", str(out)]) == 0
    assert len(lines(out)) == 20
    assert lines(out)[0] == "aeroplane >=a thing"


def test_killed_and_resumed(names: Path, serve: Callable[[Answer], Server]) -> None:
    names.write_text("".join(f"class {number}\n" for number in range(30)))
    slow = True

    def answer(name: str, _: int) -> str:
        time.sleep(0.1 if slow else 0)
        return f"thing number {name.split()[1]}"

    server = serve(answer)
    out = names.with_name("texts.txt")
    options = ["--names", str(names), "--out", str(out), "--base-url", server.url, "--batch-size", "1"]
    environ = {**environment(), "OPENAI_API_KEY": TOKEN}
    process = start_python(ROOT / "tools/llama3_definition_generation.py", *options, env=environ)
    deadline = time.monotonic() + 400
    while len(server.asked) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=400)
    assert not out.exists()
    assert 5 <= len(server.asked) < 30
    slow = False
    assert program.main(DEFINITION, CONFIGS, options) == 0
    assert sum(server.asked.values()) <= 31, "only the answer under way was lost"
    assert lines(out) == [f"class {number} >=thing number {number}" for number in range(30)]
    assert not os.path.exists(f"{out}.journal.jsonl")  # noqa: PTH110
