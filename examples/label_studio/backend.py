"""A Label Studio machine-learning backend that gets brush masks from ITACLIP's HTTP API.

The labels of the project's BrushLabels tag are the classes. Commas separate synonyms; a label
"background" stands for everything else. See README.md in this folder.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import requests
from label_studio_ml.model import LabelStudioMLBase
from label_studio_tools.core.utils.io import get_local_path

ADDRESS = os.environ.get("ITACLIP_API", "http://127.0.0.1:7860")
TOKEN = os.environ.get("ITACLIP_API_TOKEN")
RETRY_SECONDS = 120.0  # how long to retry while the server is busy

BACKGROUND = "background"


class ItaclipBackend(LabelStudioMLBase):
    """Predictions for tasks with an image and brush labels."""

    def predict(self, tasks: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """Make a prediction per task: a brush mask per label that occurs in its image."""
        tag, image_tag, key, labels = self._brush_tag()
        names = {label.split(",")[0].strip(): label for label in labels}  # the first word names a class
        classes = [[word.strip() for word in label.split(",")] for label in labels if label.lower() != BACKGROUND]
        predictions = []
        for task in tasks:
            prediction = segment(self._image(task["data"][key]), classes)
            for region in prediction["result"]:
                region["from_name"], region["to_name"] = tag, image_tag
                region["value"]["brushlabels"] = [names[name] for name in region["value"]["brushlabels"]]
            predictions.append(prediction)
        return predictions

    def _brush_tag(self) -> tuple[str, str, str, list[str]]:
        """Find the names of the BrushLabels tag and its image, the image's key in tasks, and the labels."""
        for tag, entry in self.parsed_label_config.items():
            if entry["type"] == "BrushLabels":
                return tag, entry["to_name"][0], entry["inputs"][0]["value"], list(entry["labels"])
        raise ValueError("The labelling configuration has no BrushLabels tag.")

    def _image(self, url: str) -> Path:
        return Path(get_local_path(url, hostname=self.hostname or None, access_token=self.access_token or None))


def segment(image: Path, classes: list[list[str]]) -> dict[str, Any]:
    """Get the API's prediction for an image; retry as long as the server is busy."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    fields = {"classes": "\n".join(", ".join(words) for words in classes), "output": "label_studio"}
    until = time.monotonic() + RETRY_SECONDS
    while True:
        files = {"image": (image.name, image.read_bytes())}
        answer = requests.post(f"{ADDRESS}/v1/segment", headers=headers, files=files, data=fields, timeout=300)
        if answer.status_code not in (429, 503) or time.monotonic() > until:
            break
        time.sleep(float(answer.headers.get("Retry-After", 5)))
    if not answer.ok:
        raise ValueError(f"{image.name}: {answer.json()['detail']}")
    prediction: dict[str, Any] = answer.json()
    return prediction


if __name__ == "__main__":
    from label_studio_ml.api import init_app

    model_dir = os.environ.get("MODEL_DIR", "models")  # required by the SDK; nothing is trained here
    app = init_app(model_class=ItaclipBackend, model_dir=model_dir)
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "9090")))
