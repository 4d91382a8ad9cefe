"""The guides to methods and extensions: their code runs, their numbers are the data's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from comparison_helpers import small_config
from conftest import ROOT

from itaclip import Segmenter
from itaclip.core.methods import GEM, METHODS, LastBlock
from itaclip.research.comparison.commands.eval_all import main as compare
from itaclip.research.evaluation.command import main as evaluate

METHODS_GUIDE = (ROOT / "docs/methods.md").read_text()


@pytest.fixture
def own_method(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unregister the guide's method afterwards."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def test_the_ten_line_method_runs(
    own_method: None, tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = guide_files(tmp_path)
    small_config(tmp_path / "cfg_demo.py", tiny_weights, voc_like([(40, 60)]))
    monkeypatch.syspath_prepend(tmp_path)
    config = str(tmp_path / "cfg_mine.py")
    assert evaluate(["--config", config, "--work-dir", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text())["settings"]["method"] == "mine"
    given = ["--configs", config, "--methods", "mine", "clip", "--out", str(tmp_path / "all")]
    assert compare(ROOT / "tools/dist_test.sh", given) == 0
    code = [line for line in files["my_method.py"].splitlines() if line.strip() and not line.lstrip().startswith('"""')]
    assert len(code) <= 10


def test_the_longer_method_runs_with_its_option(
    own_method: None, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("mean_of_blocks")
    segmenter = Segmenter(str(tiny_weights), quality="fast", pamr_steps=0, method="mean")
    segmenter.set_classes(["sky", "grass", "house"], background=False)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    maps = [segmenter(image, scores="full", method_options={"first": first}).scores.full for first in (1, 2)]
    assert all(np.isfinite(scores).all() for scores in maps)
    assert not np.allclose(*maps)


def guide_files(folder: Path) -> dict[str, str]:
    """The files of docs/extending.md, written into a folder."""
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    files = {Path(name).name: text for name, text in found}
    assert list(files) == ["my_method.py", "cfg_mine.py", "mean_of_blocks.py"]
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


def test_every_method_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \| (yes|no) \|", METHODS_GUIDE, re.MULTILINE)
    more = re.findall(r"^\| (.*) \|.*\| `\w+\.py` \|$", METHODS_GUIDE, re.MULTILINE)
    others = {name for row in more for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert {name for name, *_ in described} | others == set(METHODS)
    for name, residual, feed_forward in described:
        method = METHODS[name]
        assert isinstance(method, (LastBlock, GEM))
        assert (method.residual, method.feed_forward) == (residual == "yes", feed_forward == "yes")
