"""Numbers in the documents are those of docs/results, of the published tables and of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from processes import run_python

from itaclip.common.demo.dataset import SCENES, class_lines
from itaclip.common.shipped import configurations
from itaclip.core.concepts.options import CONCEPTS
from itaclip.core.methods import COMPARED, METHODS
from itaclip.core.quality import QUALITIES, quality_settings
from itaclip.core.windows import WindowPlan
from itaclip.research.comparison.published import ALL, TABLES

RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs/results").glob("*.json"))}
WITHOUT_PROCESSOR = {
    "class_lists", "demo_encoder", "gpu_memory_vit_b_16_fp16", "gpu_memory_vit_b_16_fp32",
    "growth_vit_b_16", "http_load_demo_queue_20", "http_load_demo_queue_40", "memory_cityscapes", "memory_coco_stuff",
    "methods_and_parts_demo", "zero_shot_demo", "zero_shot_speed",
}  # fmt: skip
"""Recorded before reports named the processor. The list may only shrink."""


def make_record(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_python(ROOT / "tools/make_record.py", "--root", root, *options, cwd=ROOT, timeout=400)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A copy of the pages and of what was recorded."""
    (tmp_path / "docs").mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, tmp_path / "docs")
    shutil.copytree(ROOT / "docs/results", tmp_path / "docs/results")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_pages_show_what_was_recorded() -> None:
    done = make_record(ROOT, "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("README.md", r"(<!-- number: itaclip -->)[\d.]+", r"\g<1>77.0"),
        ("docs/benchmarks.md", r"(\| `maskclip` \| 71\.)\d", r"\g<1>5"),
        ("docs/published.md", r"\| 67\.9 \|", "| 69.7 |"),
    ],
)
def test_a_changed_number_is_found_and_put_right(documents: Path, page: str, before: str, after: str) -> None:
    text = (documents / page).read_text()
    changed = re.sub(before, after, text, count=1)
    assert changed != text
    (documents / page).write_text(changed)
    done = make_record(documents, "--check")
    assert done.returncode == 1
    assert page in done.stdout.replace("\\", "/")
    assert (documents / page).read_text() == changed  # a check writes nothing
    assert make_record(documents).returncode == 0
    assert (documents / page).read_text() == text


def test_a_new_recording_reaches_every_page_that_shows_it(documents: Path) -> None:
    path = documents / "docs/results/demo.json"
    recorded = json.loads(path.read_text())
    recorded["itaclip"]["mIoU"] = 12.3456
    path.write_text(json.dumps(recorded))
    assert make_record(documents).returncode == 0
    for page in ("README.md", "docs/benchmarks.md", "docs/record.md"):
        assert "12.3" in (documents / page).read_text(), page
    assert make_record(documents, "--check").returncode == 0


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("<!-- table: engine -->\n<!-- end -->", "no table is named 'engine'. Did you mean 'engines'?"),
        ("<!-- number: clip -->1", "lacks its beginning or end"),
        ("2<!-- end -->", "lacks its beginning or end"),
        (
            "<!-- number: clip -->1 <!-- number: itaclip -->2<!-- end -->",
            "<!-- number: clip --> lacks its <!-- end -->",
        ),
    ],
)
def test_bad_markers_are_reported_with_their_page(documents: Path, added: str, message: str) -> None:
    page = documents / "docs/faq.md"
    page.write_text(page.read_text() + added)
    done = make_record(documents)
    assert done.returncode == 2
    assert message in done.stderr
    assert "faq.md" in done.stderr


def test_missing_unknown_and_damaged_recordings_are_reported(documents: Path) -> None:
    results = documents / "docs/results"
    (results / "mine.json").write_text("{}")
    assert "mine.json: FILES in tools/record.py does not describe this file" in make_record(documents).stderr
    (results / "mine.json").unlink()
    (results / "start.json").write_text("{")
    assert "start.json: not a JSON file" in make_record(documents).stderr
    (results / "start.json").unlink()
    done = make_record(documents)
    assert done.returncode == 2
    assert "start.json is missing. Record it with: python tools/measure_start.py" in done.stderr


# --- what was recorded -------------------------------------------------------


def nested(content: Any, key: str) -> Iterator[Any]:
    """The values of a key at any depth."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from [value] if name == key else nested(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from nested(value, key)


def test_recordings_name_the_processor() -> None:
    named = {
        name
        for name, content in RECORDS.items()
        if (machines := list(nested(content, "machine"))) and all(machine.get("processor") for machine in machines)
    }
    assert set(RECORDS) - named == WITHOUT_PROCESSOR


def test_recordings_come_from_the_current_release() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    recorded = {versions["itaclip"] for content in RECORDS.values() for versions in nested(content, "versions")}
    assert {version.rsplit(".", 1)[0] for version in recorded} == {declared[1].rsplit(".", 1)[0]}


def test_every_stage_of_the_recorded_agreement_is_within_its_tolerance() -> None:
    stages = [stage for recording in RECORDS["agreement"]["recordings"].values() for stage in recording]
    assert len(stages) > 200
    for stage in stages:
        within = stage["value"] >= stage["limit"] if stage["stage"] == "pred" else stage["value"] <= stage["limit"]
        assert within, stage


def test_the_demo_scores_the_same_in_both_recordings() -> None:
    rows = {row["variant"]: row["mIoU"] for row in RECORDS["methods_and_parts_demo"]["rows"]}
    assert rows["itaclip, all of ITACLIP's"] == pytest.approx(RECORDS["demo"]["itaclip"]["mIoU"], abs=0.05)
    assert rows["clip, plain"] == pytest.approx(RECORDS["demo"]["clip"]["mIoU"], abs=0.05)


def test_what_the_measurements_say_in_words_holds() -> None:
    rows = [(*row["variant"].split(", ", 1), row["mIoU"]) for row in RECORDS["methods_and_parts_demo"]["rows"]]
    scores = {(method, variant): score for method, variant, score in rows}
    both = {m: scores[m, "+ PAMR + map correction"] - scores[m, "+ PAMR"] for m in COMPARED}
    assert {m for m, gain in both.items() if gain > 0} == {"scclip"}  # map correction after PAMR helps it alone
    for method in COMPARED:
        assert scores[method, "+ PAMR"] > scores[method, "plain"]
        assert scores[method, "+ map correction"] > scores[method, "plain"]
        assert scores[method, "+ PAMR"] <= scores["maskclip", "+ PAMR"]
    presets = {row["quality"]: row["mIoU"] for row in RECORDS["qualities_demo"]["rows"] if row["dtype"] == "fp32"}
    assert max(presets, key=lambda name: presets[name]) == "fast"
    least = min(row["passes"] for row in RECORDS["adaptive_demo"]["rows"] if row["variant"].endswith("tolerance 0.03"))
    assert f"{least:.0%}".replace("%", " %") + " of that or more" in text_of("docs/choosing.md")


# --- numbers written by hand -------------------------------------------------


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def passes(size: tuple[int, int], quality: str) -> int:
    """Encoder passes of ViT-B/16 for an image resized to `size`."""
    chosen = quality_settings(quality, 224)
    windows = WindowPlan.of(size, 224, chosen["slide_stride"], 16).count
    return windows * (5 if chosen["img_engineering"] else 1)


def test_encoder_passes_of_the_quality_presets() -> None:
    shown = dict(re.findall(r"^\| `(\w+)`[^|]*\| [^|]+ \| ([\d ]+[^|]*) \|", text_of("docs/choosing.md"), re.MULTILINE))
    assert set(shown) == set(QUALITIES)
    for quality in ("exact", "balanced", "fast"):
        assert int(shown[quality]) == passes((336, 448), quality)  # 375 x 500, short side 336
    assert f"takes {passes((336, 448), 'exact')} passes at 28" in text_of("docs/configuration.md")
    assert f"and {passes((336, 448), 'balanced')} at 112" in text_of("docs/configuration.md")
    assert f"{passes((336, 505), 'exact')} encoder passes" in text_of("docs/record.md")  # 300 x 451
    assert f"at most {QUALITIES['adaptive'][2]:.0%}".replace("%", " %") in text_of("docs/choosing.md")


def test_published_scores_of_the_guides_are_the_data() -> None:
    """Scores of the methods that a row names, in the data set of its column."""
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \| ([\d.]+[^|]*) \|$", text_of("docs/choosing.md"), re.MULTILINE)
    assert len(rows) == 9
    for methods, scores in rows:
        names = set(re.findall(r"`(\w+)`", methods)) & {*METHODS, *CONCEPTS}
        known = {row.scores["voc21"] for row in TABLES if row.method in names and "voc21" in row.scores}
        assert {float(score) for score in re.findall(r"\d+\.\d+", scores)} <= known, methods
    readme = re.search(r"^\| ITACLIP, published \| (.+) \|$", text_of("README.md"), re.MULTILINE)
    assert readme is not None
    ours = next(row for row in TABLES if row.method == "itaclip" and row.pamr)
    order = ("voc21", "context60", "coco_object", "coco_stuff", "cityscapes")
    assert [float(score) for score in readme[1].split(" | ")] == [ours.scores[name] for name in order]


def test_every_published_row_is_shown_once() -> None:
    text = text_of("docs/published.md")
    shown = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| method")]
    assert len(shown) == len(TABLES)
    for row in TABLES:
        values = [f"{row.scores[name]:g}" if name in row.scores else "" for name in ALL]
        ending = f"| {row.source} | " + " | ".join(values) + " |"
        assert sum(line.startswith(f"| {row.label} |") and line.endswith(ending) for line in shown) >= 1, row


def test_published_scores_of_trained_methods_are_those_of_their_configurations() -> None:
    described = {path.stem: path.read_text().split('"""')[1] for path in (ROOT / "configs/zero_shot").glob("*.py")}
    rows = re.findall(r"^\| (Cascade-CLIP|CLIP-RC), (\w[\w-]*), (\w+)[ \w]* \| (.+) \|$", text_of("docs/zero-shot.md"),
                      re.MULTILINE)  # fmt: skip
    published = [row for row in rows if row[2] in ("inductive", "transductive", "fully")]
    assert len(published) >= 12
    for method, data, mode, scores in published:
        name = f"{method.lower().replace('-', '_')}_{data.lower().removesuffix('-stuff')}_{mode}"
        for score in re.findall(r"\d+\.\d+", scores):
            assert re.search(rf"\b{score}\b", described[name]), (name, score)


def test_counts_of_the_demo_are_its_own() -> None:
    """Scenes and classes, wherever a page counts them."""
    for page in [ROOT / "README.md", ROOT / "configs/cfg_demo.py", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        for count in re.findall(r"(?<!first )\b(\d+) held-out (?:scenes|ones)", text):
            assert int(count) == SCENES, page
        for count in re.findall(r"(\d+) classes of (?:its|the demo)|town of (\d+) classes|scenes, (\d+) classes", text):
            assert int("".join(count)) == len(class_lines()), page


def test_lists_of_methods_and_data_sets_are_complete() -> None:
    costs = {row["method"] for row in RECORDS["methods_speed_vit_b_16"]["rows"]}
    assert costs <= set(METHODS)
    scored = {row["variant"].split(",")[0] for row in RECORDS["methods_and_parts_demo"]["rows"]}
    assert scored == set(COMPARED)
    listed = set(re.findall(r"^\| [^|]+ \| `configs/cfg_(\w+)\.py` \|", text_of("docs/evaluation.md"), re.MULTILINE))
    assert listed == {name for name in configurations() if "/" not in name}
    chosen = set(re.findall(r"`(\w+)`", text_of("docs/choosing.md"))) & set(METHODS)
    assert chosen | {"maskclip", "gem"} >= set(COMPARED)
