"""Clients for `tools/load_test.py`, run by locust: each sends the images of ``ITACLIP_LOAD_SCENES`` in turn.

A response counts if its mask belongs to the scene; a client that is asked to retry later does so.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from locust import HttpUser, constant

CLASSES = "car, taxi; bus; house; tree; cloud"


class Client(HttpUser):
    """A client that waits only for its responses."""

    wait_time = constant(0)
    masks: dict[Path, bytes] = {}  # noqa: RUF012 - shared by all clients on purpose

    def on_start(self) -> None:
        """Start with a different scene per client."""
        scenes = sorted(Path(os.environ["ITACLIP_LOAD_SCENES"]).glob("*.jpg"))
        self.scenes = itertools.islice(itertools.cycle(scenes), id(self) % len(scenes), None)

    def segment(self) -> None:
        """Send an image until it is answered; the reported time includes all attempts."""
        scene = next(self.scenes)
        content = scene.read_bytes()
        began = time.perf_counter()
        problem: Exception | None = None
        while True:
            with self.client.post(
                "/v1/segment", files={"image": (scene.name, content)}, data={"classes": CLASSES, "output": "mask"},
                name="request", catch_response=True,
            ) as answer:  # fmt: skip
                if answer.status_code == 429:
                    answer.success()
                elif answer.status_code != 200:
                    problem = RuntimeError(f"status {answer.status_code}: {(answer.text or '')[:100]}")
                    answer.failure(problem)
                elif self.masks.setdefault(scene, answer.content) != answer.content:
                    problem = RuntimeError("the mask of another image")
                    answer.failure(problem)
            if answer.status_code != 429:
                break
            self.environment.events.request.fire(
                request_type="-",
                name="told to come back",
                response_time=0,
                response_length=0,
                exception=None,
                context={},
            )
            time.sleep(float(answer.headers["Retry-After"]))
        self.environment.events.request.fire(
            request_type="-", name="image", response_time=(time.perf_counter() - began) * 1000,
            response_length=len(answer.content or b""), exception=problem, context={},
        )  # fmt: skip

    tasks = [segment]  # noqa: RUF012


if __name__ == "__main__":
    raise SystemExit("tools/load_clients.py is no program: tools/load_test.py starts it with locust.")
