"""The notebook runs from top to bottom, offline, with the bundled CLIP and with other weights."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image

from itaclip.common.demo.dataset import ensure_demo_dataset


def run(folder: Path, model: str) -> Any:
    """Execute a copy in a folder of its own."""
    notebook = nbformat.read(ROOT / "demo.ipynb", 4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert 'MODEL = "ViT-B/16"' in first.source
    first.source = first.source.replace('MODEL = "ViT-B/16"', f"MODEL = {model!r}")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def pictures(notebook: Any) -> list[np.ndarray]:
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                content = base64.b64decode(output["data"]["image/png"])
                found.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    return found


@pytest.mark.parametrize("weights", ["demo", pytest.param("other", marks=pytest.mark.slow)])
def test_runs_from_top_to_bottom(weights: str, tmp_path: Path, tiny_weights: Path) -> None:
    notebook = run(tmp_path, "demo" if weights == "demo" else str(tiny_weights))
    shown = pictures(notebook)
    assert len(shown) >= 8
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )
    if weights == "demo":  # every module changes the picture
        shares = [float(share) for share in re.findall(r"([\d.]+)% of the pixels differ", printed)]
        assert all(share > 1 for share in shares[:-1])
        assert shares[-1] == 0


def test_it_is_kept_with_its_pictures_and_without_traces_of_a_machine() -> None:
    notebook = nbformat.read(ROOT / "demo.ipynb", 4)
    assert len(pictures(notebook)) >= 8
    text = (ROOT / "demo.ipynb").read_text()
    assert str(Path.home()) + "/" not in text
    assert str(ROOT) not in text


def test_the_example_scene_is_part_of_the_demo(tmp_path: Path) -> None:
    assert (ensure_demo_dataset(tmp_path / "demo") / "JPEGImages/scene_008.jpg").is_file()
