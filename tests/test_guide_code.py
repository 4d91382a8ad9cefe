"""The Python code of the guides runs as it stands, with the bundled CLIP in ViT-B/16's place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.parametrize("name", ["docs/quick-start.md", "docs/api.md", "README.md"])
def test_python_blocks_run(
    name: str, tmp_path: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    blocks = [block for block in blocks if any(word in block for word in ("egmenter", "result", "pipeline("))]
    blocks = [block for block in blocks if "init_model" not in block]
    assert blocks
    shutil.copy(demo_root / "JPEGImages/scene_002.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        assert "photo.jpg" in block or "result" in block
        exec(compile(block.replace('"ViT-B/16"', '"demo"'), name, "exec"), scope)
    assert "segmenter" in scope
