"""A killed evaluation resumes from its stored results, but never from outdated ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_helpers import small_config
from conftest import ROOT
from distributed_helpers import (
    Demo,
    counted,
    demo,
    finish,
    killed_at_the_end,
    ranks_of,
    read_metrics,
    two_machines,
    wait_until_counted,
)
from PIL import Image

from itaclip.errors import ItaclipError
from itaclip.research.evaluation.command import SOME_SKIPPED, main
from itaclip.research.evaluation.journal import Entry, Journal
from itaclip.research.evaluation.loop import own_name

__all__ = ["demo"]


def resume(demo: Demo, work: Path, *more: str) -> dict[str, Any]:
    """Run the same evaluation to completion in this process."""
    assert main(["--config", str(demo.config), *demo.options(work), *more]) == 0
    return demo.assert_same(work)


# --- real processes, killed ------------------------------------------------------


@pytest.mark.slow
def test_a_dead_process_stops_all_machines_and_one_process_resumes(demo: Demo, tmp_path: Path) -> None:
    """Two machines; the only process of one is killed. Both stop soon and report why; no results are lost."""
    work = tmp_path / "dead"
    machines = two_machines(demo, work, 1)
    with killed_at_the_end(*machines):
        wait_until_counted(work, 10, machines[0])
        began = time.monotonic()
        os.kill(ranks_of(machines[1])[0], signal.SIGKILL)
        (first, _, told), (second, _, died) = (finish(machine, 60) for machine in machines)
        assert time.monotonic() - began < 30
    assert first != 0
    assert second != 0
    assert "another process of this run is gone" in told
    assert "exitcode  : -9" in died
    assert not (work / "metrics.json").exists()
    before = counted(work)
    assert resume(demo, work)["run"]["resumed_images"] == before >= 10


def test_everything_killed_and_resumed(demo: Demo, tmp_path: Path) -> None:
    work = tmp_path / "killed"
    with killed_at_the_end(running := demo.start(work)):
        wait_until_counted(work, 10, running)
    running.wait()
    before = counted(work)
    assert 10 <= before < 32
    assert resume(demo, work)["run"]["resumed_images"] == before


@pytest.mark.slow
def test_processes_end_with_their_launcher_and_one_resumes(demo: Demo, tmp_path: Path) -> None:
    """Two processes, then one: no finished batch is evaluated again."""
    work = tmp_path / "orphans"
    with killed_at_the_end(running := demo.start(work, 2)):
        wait_until_counted(work, 5, running)
        orphans = ranks_of(running)
        os.kill(running.pid, signal.SIGKILL)
        errors = finish(running, 60)[2]  # returns when the last process that could write has exited
    assert len(orphans) == 2
    assert "the launcher of this process is gone" in errors
    before = counted(work)
    assert resume(demo, work)["run"]["resumed_images"] == before >= 5


def test_a_full_disk_is_reported_and_the_run_resumes_when_there_is_space(demo: Demo, tmp_path: Path) -> None:
    """The journal reaches a file size limit in the middle of a line."""
    work = tmp_path / "full"
    running = demo.start(work, limit_file_size=7000)
    with killed_at_the_end(running):
        status, _, errors = finish(running)
    assert status == 2
    assert "cannot be written (" in errors
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    before = counted(work)
    assert not (work / "metrics.json").exists()
    assert resume(demo, work)["run"]["resumed_images"] == before > 0


# --- what is taken up, and what not ----------------------------------------------


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path]) -> Path:
    """Five small images in batches of two, with random weights."""
    root = voc_like([(40, 60), (64, 64), (50, 33), (40, 40), (60, 40)])
    return small_config(tmp_path / "cfg_small.py", tiny_weights, root, auxiliary_text_path=None)


@pytest.fixture
def unfinished(config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation that stopped before writing its metrics: its journal is complete."""
    with monkeypatch.context() as patched:
        patched.setattr("itaclip.research.evaluation.command.write_json", _no_space)
        with pytest.raises(ItaclipError, match="no space"):
            evaluate(config)
    assert counted(config.parent / "out") == 5
    return config


def _no_space(*_: object) -> None:
    raise ItaclipError("no space left")


def evaluate(config: Path, *more: str) -> int:
    return main(["--config", str(config), "--work-dir", str(config.parent / "out"), *more])


def resumed(config: Path, *more: str) -> int:
    """Evaluate; returns the number of images taken from earlier runs."""
    evaluate(config, *more)
    found: int = read_metrics(config.parent / "out")["run"]["resumed_images"]
    return found


def journal(config: Path) -> Path:
    (path,) = (config.parent / "out/journal").glob("*.jsonl")
    return path


def test_a_complete_journal_leaves_nothing_to_do(unfinished: Path) -> None:
    assert resumed(unfinished) == 5
    assert resumed(unfinished) == 0  # finished: the next run starts over


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "noise"])
def test_images_of_damaged_lines_are_evaluated_again(
    damage: str, unfinished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three lines after the first; the metrics equal those of an uninterrupted run."""
    path = journal(unfinished)
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-7])
    elif damage == "flipped":
        place = content.index(b'"counts"') + 30
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(content + os.urandom(300) + b"\n" + os.urandom(20))
    assert resumed(unfinished) == {"torn": 4, "flipped": 3, "empty": 0, "noise": 5}[damage]
    assert ("damaged lines" in caplog.text) == (damage != "empty")
    found = read_metrics(unfinished.parent / "out")
    assert evaluate(unfinished, "--no-resume") == 0
    again = read_metrics(unfinished.parent / "out")
    assert found["per_class"] == again["per_class"]
    assert found["images"] == again["images"] == 5


@pytest.mark.parametrize(
    ("option", "part"),
    [("model.logit_scale=33", "settings"), ("model.auxiliary_text_path=TEXTS", "class words and texts"),
     ("model.model_name=demo", "settings, weights, image tower"),
     ("test_dataloader.dataset.pipeline.1.interpolation=nearest", "data set")],
)  # fmt: skip
def test_another_evaluation_is_not_resumed_and_the_difference_is_reported(
    option: str, part: str, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = option.replace("TEXTS", f"{ROOT}/llm_texts/demo_definitions.txt")
    assert resumed(unfinished, "--cfg-options", option) == 0
    assert f"an unfinished run with other {part} is not continued" in capsys.readouterr().out
    assert counted(unfinished.parent / "out") == 5  # it stays for its own settings
    assert resumed(unfinished) == 5


def test_changed_code_is_another_evaluation(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Including custom modules that a configuration imports."""
    module = unfinished.parent / "resume_own_module.py"
    module.write_text("LIMIT = 1\n")
    imports = 'dict(imports=["itaclip.research.openmmlab", "resume_own_module"], allow_failed_imports=False)'
    imports = f"custom_imports = {imports}\n"
    sys.path.insert(0, str(module.parent))
    try:
        unfinished.write_text(unfinished.read_text() + imports)
        assert resumed(unfinished) == 0
    finally:
        sys.path.remove(str(module.parent))
    assert "with other software is not continued" in capsys.readouterr().out


def test_weights_with_other_content_under_the_same_name_are_noticed(
    tmp_path: Path, config: Path, tiny_weights: Path, tiny_torchscript: Path
) -> None:
    from itaclip.research.evaluation.identity import identity
    from itaclip.research.openmmlab.configuration import load_config

    path = tmp_path / "weights.pt"
    found = []
    for source in (tiny_weights, tiny_torchscript, tiny_weights):
        shutil.copy(source, path)
        description = load_config(config)
        description.model.model_name = str(path)
        found.append(identity(description))
    assert found[0] == found[2]
    assert [name for name in found[0] if found[0][name] != found[1][name]] == ["weights"]


def test_only_changed_files_are_evaluated_again(unfinished: Path) -> None:
    root = unfinished.parent / "voc"
    mask = np.asarray(Image.open(root / "SegmentationClass/image_2.png")).copy()
    mask[:] = 255
    Image.fromarray(mask).save(root / "SegmentationClass/image_2.png")
    assert resumed(unfinished) == 3  # all but the batch of images 2 and 3
    changed = read_metrics(unfinished.parent / "out")
    evaluate(unfinished, "--no-resume")
    assert read_metrics(unfinished.parent / "out")["per_class"] == changed["per_class"]


def test_a_smaller_run_is_the_start_of_a_larger_one(unfinished: Path) -> None:
    assert resumed(unfinished, "--limit", "2") == 2
    assert read_metrics(unfinished.parent / "out")["images"] == 2


def test_missing_overlays_are_written(unfinished: Path, tmp_path: Path) -> None:
    """The evaluation started without --out; later, masks are requested."""
    masks = tmp_path / "masks"
    masks.mkdir()
    assert resumed(unfinished, "--out", str(masks), "--limit", "4") == 0
    assert sorted(path.name for path in masks.iterdir()) == [f"image_{i}.png" for i in range(4)]


def test_no_resume_starts_over(unfinished: Path) -> None:
    assert resumed(unfinished, "--no-resume") == 0
    assert not (unfinished.parent / "out/journal").exists()


def test_only_repaired_images_are_evaluated_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "voc/JPEGImages/image_4.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # OpenCV would fill the rest with grey
    assert evaluate(config) == SOME_SKIPPED
    assert "Repair or add these files and run the same command again" in capsys.readouterr().out
    path.write_bytes(content)
    assert resumed(config) == 4
    assert read_metrics(config.parent / "out")["images"] == 5


def test_two_runs_in_one_folder_do_not_interfere(unfinished: Path) -> None:
    """Files with the same key are merged, each batch counting once; files with other keys are left alone."""
    path = journal(unfinished)
    lines = path.read_bytes().splitlines(keepends=True)
    name = path.name.rsplit("-", 1)[0]
    path.write_bytes(b"".join(lines[:3]))  # the first two batches ...
    (path.parent / f"{name}-0badcafe.jsonl").write_bytes(b"".join(lines[:1] + lines[2:]))  # ... and the last two
    assert resumed(unfinished) == 5
    found = read_metrics(unfinished.parent / "out")
    evaluate(unfinished, "--no-resume")
    assert read_metrics(unfinished.parent / "out")["per_class"] == found["per_class"]


def test_an_image_that_is_listed_twice_counts_twice(config: Path) -> None:
    """In one batch, where both have the same name, and in two batches."""
    listing = config.parent / "voc/ImageSets/Segmentation/val.txt"
    listing.write_text("image_0\nimage_0\nimage_1\nimage_0\n")
    assert evaluate(config) == 0
    found = read_metrics(config.parent / "out")
    assert found["images"] == 4
    assert found["pixels"] == 3 * 40 * 60 + 64 * 64


def test_a_journal_is_read_back_as_written(tmp_path: Path) -> None:
    entries = {f"batch{i}": Entry([f"ünïcode {i}.jpg"], [[0, 5, 7, 10**9]], 0.5) for i in range(3)}
    writing = Journal(tmp_path / "journal", {"settings": "a"})
    for name, entry in entries.items():
        writing.write(name, entry)
    found, done = Journal(tmp_path / "journal", {"settings": "a"}).restore(["batch0", "batch2", "other"])
    assert found == {name: entries[name] for name in ("batch0", "batch2")}
    assert done == {"batch0", "batch2"}
    assert Journal(tmp_path / "journal", {"settings": "b"}).restore(["batch0"]) == ({}, set())
    writing.remove()
    assert not (tmp_path / "journal").exists()


def test_several_processes_may_remove_the_same_journal_at_once(tmp_path: Path) -> None:
    """Each finds the folder gone at some moment: before, while or after it lists the files."""

    def write_and_remove(_: int) -> None:
        for _ in range(300):
            journal = Journal(tmp_path / "journal", {"run": "1"})
            with suppress(ItaclipError):  # the other one removed the folder before the file was opened
                journal.write("a", Entry([], [], 0.0))
            journal.remove()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write_and_remove, range(3)))


def test_a_journal_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where a folder belongs")
    with pytest.raises(ItaclipError, match=r"journal/\w+-0-\w+\.jsonl: cannot be written"):
        Journal(tmp_path / "journal", {}).write("batch", Entry([], [], 0.0))


def test_output_names_stay_in_their_folder(tmp_path: Path) -> None:
    dataset = type("Dataset", (), {"data_prefix": {"img_path": str(tmp_path / "images")}})()
    inside = tmp_path / "images/sub/a.jpg"
    inside.parent.mkdir(parents=True)
    inside.symlink_to(tmp_path / "blob")  # the name is the link's
    assert own_name(str(inside), dataset) == Path("sub/a.jpg")
    assert own_name(f"{tmp_path}/images/../../evil.jpg", dataset) == Path("evil.jpg")
    assert own_name("/etc/evil.jpg", dataset) == Path("evil.jpg")


def test_the_journal_is_small(unfinished: Path) -> None:
    lines = [json.loads(line[9:]) for line in journal(unfinished).read_text().splitlines()]
    counts = [cells for line in lines for cells in line.get("counts", [])]
    assert len(counts) == 5
    assert all(len(cells) % 2 == 0 and min(cells[1::2]) > 0 for cells in counts)
