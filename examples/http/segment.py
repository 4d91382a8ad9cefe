"""Segment images through the API, using only the standard library.

python segment.py "cat; sofa, couch" photo.jpg other.jpg

ITACLIP_API is the server's address; ITACLIP_API_TOKEN is its token, if it has one.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ADDRESS = os.environ.get("ITACLIP_API", "http://127.0.0.1:7860")


def segment(image: Path, classes: str, **fields: Any) -> dict[str, Any]:
    """Send an image; retry as long as the server is busy."""
    body = {"image": base64.b64encode(image.read_bytes()).decode(), "name": image.name, "classes": classes} | fields
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("ITACLIP_API_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{ADDRESS}/v1/segment", json.dumps(body).encode(), headers)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise SystemExit(f"{image}: {json.load(error)['detail']}") from None
            time.sleep(float(error.headers.get("Retry-After", 5)))


def main() -> None:
    """Write a mask next to every image and print the shares of its classes."""
    classes, *images = sys.argv[1:]
    for image in map(Path, images):
        found = segment(image, classes)
        image.with_name(f"{image.stem}_mask.png").write_bytes(base64.b64decode(found["mask"]))
        shares = ", ".join(f"{entry['name']} {entry['area']:.1%}" for entry in found["classes"] if entry["area"])
        sys.stdout.write(f"{image.name}: {shares}\n")


if __name__ == "__main__":
    main()
