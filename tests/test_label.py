"""Collections on Ray: every source, the same rows as from single images, and crashes of every kind."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from conftest import ROOT
from label_helpers import CLASSES, choose, counting
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from ray.cluster_utils import Cluster

import itaclip
from itaclip import ItaclipError, LabelOptions, LabelReport, Labels, Segmenter
from itaclip.apps.collection.label import label_with
from itaclip.apps.collection.locations import Location, checked_address, redacted
from itaclip.apps.collection.sources import open_source
from itaclip.apps.collection.store import Store
from itaclip.apps.collection.transfer import Job, RateLimiter, make_plan
from itaclip.apps.collection.units import Entry, split_into_parts
from itaclip.apps.command.label import progress_line
from itaclip.apps.command.main import main as program
from itaclip.files import atomic_path

SECRET = "hunter2secret"
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


class Machines:
    """A cluster of three simulated machines."""

    def __init__(self) -> None:
        quick_to_notice = {"health_check_period_ms": 500, "health_check_failure_threshold": 6}
        self._cluster = Cluster(True, head_node_args=NODE | {"_system_config": quick_to_notice})
        self._others: list[Any] = []
        self.address: str = self._cluster.address

    def three(self) -> None:
        """Replace removed machines."""
        while len(self._others) < 2:
            self._others.append(self._cluster.add_node(**NODE))
        self._cluster.wait_for_nodes()

    def remove(self) -> None:
        """Disconnect a machine."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines(own_cache: None) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # otherwise other work on the machine takes precedence
        made = Machines()
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def three(machines: Machines) -> Machines:
    machines.three()
    return machines


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Path:
    """Twenty-four crops of the drawn town, some with problematic names, and two files that are not images."""
    root = tmp_path_factory.mktemp("crops")
    scenes = [Image.open(demo_root / f"JPEGImages/scene_00{i}.jpg") for i in range(4)]
    for n in range(24):
        name = ("a b/ü{}.png", "straße/图{}.png", "{}.jpg", "x=1/{}.jpg")[n % 4].format(n)
        path = root / name
        path.parent.mkdir(exist_ok=True)
        scenes[n % 4].crop((n, n, n + 90 + n % 3, n + 70)).save(path)
    (root / "broken.jpg").write_bytes((root / "2.jpg").read_bytes()[:400])
    (root / "words.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def expected(crops: Path, quick: Segmenter) -> dict[str, Any]:
    """The results of `Segmenter` for each image separately."""
    vocabulary = choose(quick)
    return {
        str(path.relative_to(crops)): quick(path, vocabulary, scores="full")
        for path in crops.rglob("*.*")
        if path.name not in ("broken.jpg", "words.png")
    }


def assert_same(found: Iterator[Labels], expected: dict[str, Any], failed: set[str]) -> None:
    rows = list(found)
    assert len({row.key for row in rows}) == len(rows)
    assert {row.key for row in rows} == set(expected) | failed
    for row in rows:
        if row.key in failed:
            assert row.labels is None
            assert row.error
            continue
        result = expected[row.key]
        np.testing.assert_array_equal(row.labels, result.labels)
        assert row.areas == pytest.approx(result.areas)
        assert row.names == result.names
        for name, score in row.scores.items():
            assert score == pytest.approx(float(result.score_map(name)[result.mask(name)].mean()), abs=1e-5)


def check_coco(path: Path, expected: dict[str, Any], skip: set[str]) -> None:
    """Every mask belongs to its image and class, as pycocotools reads the file."""
    found = COCO(str(path))
    assert len(found.anns) == len(found.dataset["annotations"])  # ids are unique
    assert {image["file_name"] for image in found.imgs.values()} == set(expected)
    for number, image in found.imgs.items():
        result = expected[image["file_name"]]
        annotations = found.loadAnns(found.getAnnIds([number]))
        assert {found.cats[a["category_id"]]["name"] for a in annotations} == result.areas.keys() - skip
        for annotation in annotations:
            mask = found.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, result.labels == annotation["category_id"] - 1)
            assert annotation["area"] == mask.sum()


BAD = {"broken.jpg", "words.png"}
OPTIONS = LabelOptions(part_size=2, batch=1, threads=1)
ONE = replace(OPTIONS, workers=1)  # for tests that need only one: a worker takes seconds to start


def run(source: Path | str, out: Path | str, log: Path, delay: float = 0.0, **more: Any) -> itaclip.LabelReport:
    return label_with(source, out, partial(counting, log, delay), choose, **{"options": OPTIONS, **more})


def counted(log: Path) -> int:
    return sum(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else 0


# --- results -------------------------------------------------------------------


def test_rows_equal_single_images_and_every_reader_can_read_them(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = dict(model="demo", quality="fast", pamr_steps=0)
    options = LabelOptions(part_size=5, threads=1, masks=True)
    reports = []
    report = itaclip.label(crops, CLASSES, out, options=options, watch=lambda r: reports.append(r.finished), **settings)
    assert (report.done, report.failed, report.finished, report.images) == (26, 2, 6, 26)
    assert report.workers == 3
    assert reports[-1] == 6
    assert_same(itaclip.read_labels(out), expected, BAD)
    one = next(itaclip.read_labels(out, keys=["straße/图1.png"]))
    assert one.provenance["run"]["weights"] == Segmenter("demo").fingerprint
    assert one.provenance["versions"]["torch"]
    errors = {row.key: str(row.error) for row in itaclip.read_labels(out, keys=BAD)}
    assert "damaged" in errors["broken.jpg"]
    assert "not an image" in errors["words.png"]

    # without this project: DuckDB, pandas, pycocotools
    table = f"read_parquet('{out}/labels/*/*.parquet')"
    largest = duckdb.sql(
        f"SELECT key, s.name, s.share FROM (SELECT key, unnest(segments) AS s FROM {table}) ORDER BY s.area DESC"
    ).fetchall()
    assert {key for key, _, _ in largest} == set(expected)
    assert duckdb.sql(f"SELECT count(*) FROM {table} WHERE error IS NOT NULL").fetchall() == [(2,)]
    frame = pd.read_parquet(out / "labels")
    row = frame.set_index("key").loc["a b/ü0.png"]
    result = expected["a b/ü0.png"]
    for segment in row["segments"]:
        decoded = rle.decode({"size": [int(row["height"]), int(row["width"])], "counts": segment["rle"]})
        np.testing.assert_array_equal(decoded.astype(bool), result.mask(segment["name"]))
        assert decoded.sum() == segment["area"]

    masks = {}
    for path in (out / "masks").rglob("*.tar"):
        with tarfile.open(path) as tar:
            masks |= {member.name: np.asarray(Image.open(tar.extractfile(member))) for member in tar}  # type: ignore[arg-type]
    assert set(masks) == {f"{key}.png" for key in expected}
    np.testing.assert_array_equal(masks["x=1/3.jpg.png"], expected["x=1/3.jpg"].labels)

    # again: nothing to do; other classes never mix
    again = itaclip.label(crops, CLASSES, out, options=options, **settings)
    assert (again.done, again.kept) == (0, 6)
    with pytest.raises(ItaclipError, match=r"results of another run \(different classes\)"):
        itaclip.label(crops, ["car"], out, options=options, **settings)


@pytest.mark.slow
def test_repaired_images_are_tried_again_and_other_settings_replace_results(
    three: Machines, crops: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.tar"
    image = (crops / "2.jpg").read_bytes()

    def write(contents: list[bytes], whole: bool) -> None:
        with tarfile.open(source, "w") as tar:
            for n, content in enumerate(contents):
                last = tar.offset
                member = tarfile.TarInfo(f"{n}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        if not whole:
            os.truncate(source, last + 600)

    write([image, image, b"no image", image], whole=False)
    out, log = tmp_path / "out", tmp_path / "log"
    assert run(source, out, log, options=ONE).failed == 2
    rows = {row.key: row.error for row in itaclip.read_labels(out)}
    assert "cannot be read beyond 3 images" in str(rows["in.tar"])
    assert run(source, out, log, options=ONE).done == 0
    write([image] * 4, whole=True)
    report = run(source, out, log, options=replace(ONE, retry_errors=True))
    assert (report.done, report.failed) == (4, 0)
    assert [row.key for row in itaclip.read_labels(out)] == [f"in.tar/{n}.jpg" for n in range(4)]

    # other settings replace these results on request, but never foreign files
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ItaclipError, match=r"different part_size"):
        run(source, out, log, options=replace(ONE, part_size=3))
    assert run(source, out, log, options=replace(ONE, part_size=3, overwrite=True)).done == 4
    assert [row.key for row in itaclip.read_labels(out)] == [f"in.tar/{n}.jpg" for n in range(4)]
    assert parts(out) == 2
    assert (out / "notes.txt").read_text() == "mine"
    (tmp_path / "mine/masks").mkdir(parents=True)
    with pytest.raises(ItaclipError, match=r"mine/masks: exists, but not from"):
        run(source, tmp_path / "mine", log, options=replace(ONE, overwrite=True))


# --- deaths --------------------------------------------------------------------


def when(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    """Do something in the background once a condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + 400
        while not condition():
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def parts(out: Path) -> int:
    return len(list((out / "labels").rglob("*.parquet")))


def test_a_killed_worker_costs_only_its_parts(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    killed: list[int] = []

    def kill() -> None:
        killed.append(int(log.read_text().splitlines()[-1].split()[1]))
        os.kill(killed[0], signal.SIGKILL)

    killer = when(lambda: counted(log) >= 6, kill)
    report = run(crops, out, log, delay=0.3)
    killer.join()
    assert killed
    assert_same(itaclip.read_labels(out), expected, BAD)
    assert (report.done, report.failed, report.finished) == (26, 2, 13)
    assert 24 < counted(log) <= 24 + 2 * OPTIONS.part_size  # only the worker's parts


@pytest.mark.slow
def test_a_lost_machine_costs_only_its_parts(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    remover = when(lambda: parts(out) >= 2, three.remove)
    report = run(crops, out, log, delay=0.3)
    remover.join()
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    assert_same(itaclip.read_labels(out), expected, BAD)
    assert report.finished == 13
    # its finished but unwritten parts are recomputed too
    assert counted(log) <= 24 + 4 * OPTIONS.part_size


@pytest.mark.slow
def test_the_same_command_resumes_after_a_killed_driver(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    script = [sys.executable, str(ROOT / "tests/label_helpers.py"), str(crops), str(out), str(log), "0.3"]
    driver = subprocess.Popen([*script, three.address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 400
    while parts(out) < 3 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.02)
    driver.kill()
    said, _ = driver.communicate()
    three.remove()
    deadline = time.monotonic() + 400
    while len([node for node in ray.nodes() if node["Alive"]]) > 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    before = {path: path.stat().st_mtime_ns for path in (out / "labels").rglob("*.parquet")}
    assert 3 <= len(before) < 13, said
    report = run(crops, out, log)
    assert report.kept == len(before)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert_same(itaclip.read_labels(out), expected, BAD)
    assert counted(log) <= 24 + 3 * 2 * OPTIONS.part_size  # two parts per worker were in flight


@pytest.mark.slow
def test_an_unwritable_destination_stops_the_run_which_can_resume(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    obstacle = when((out / "run.json").exists, lambda: (out / "labels").write_text(""))
    with pytest.raises(ItaclipError, match=r"out/labels/.*: cannot be written"):
        run(crops, out, log, options=ONE)
    obstacle.join()
    assert (out / "labels").read_text() == ""
    (out / "labels").unlink()
    run(crops, out, log, options=ONE)
    assert_same(itaclip.read_labels(out), expected, BAD)
    assert not (out / ".partial").exists()


@pytest.mark.slow
def test_too_many_errors_stop_the_run(three: Machines, tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"{n:02d}.png").write_bytes(b"no image")
    with pytest.raises(ItaclipError, match=r"images failed, and max_errors is 3\. The first: .*not an image"):
        run(tmp_path, tmp_path / "out", tmp_path / "log", options=replace(ONE, max_errors=3, limit_rate=500))


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(ItaclipError, match=r"x\.parquet: cannot be written"):
            Location(f"{tmp_path}/labels/x.parquet").write(b"0" * 1000, Location(str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- sources -------------------------------------------------------------------


def entries(address: str | Path, size: int = 2, **options: Any) -> list[Entry]:
    """All entries of a source, read unit by unit."""
    source = open_source(str(address), **options)
    return [entry for unit in source.units(size) for entry in source.entries(unit)]


def keys(address: str | Path, **options: Any) -> list[str]:
    found = entries(address, **options)
    assert all(entry.error is None and entry.content for entry in found)
    return [entry.key for entry in found]


def test_folders_and_patterns(crops: Path, tmp_path: Path) -> None:
    everything = sorted(str(path.relative_to(crops)) for path in crops.rglob("*.*"))
    assert sorted(keys(crops)) == everything
    assert keys(crops) == keys(crops)
    assert sorted(keys(f"{crops}/**/*.png")) == [key for key in everything if key.endswith(".png")]
    assert keys(f"{crops}/*.jpg") == sorted(key for key in everything if key.endswith(".jpg") and "/" not in key)
    assert keys(f"{crops}/x=1/[3-7].jpg") == ["3.jpg", "7.jpg"]
    assert sorted(keys(f"{crops}/**/{{2,7}}.jpg")) == ["2.jpg", "x=1/7.jpg"]
    single = [
        key for key in everything if len(Path(key).name) == 5 and key[-5] not in "134568" and key.endswith(".jpg")
    ]
    assert sorted(keys(f"{crops}/**/[!134-68].jpg")) == single
    assert len(single) > 1
    with pytest.raises(ItaclipError, match=r"x\*\*/\*\.jpg: \*\* means any folders; write it between slashes"):
        keys(f"{crops}/x**/*.jpg")
    assert keys(f"{crops}/{{2,6}}.jpg") == ["2.jpg", "6.jpg"]
    assert keys(crops / "2.jpg") == ["2.jpg"]
    odd = tmp_path / "[x]"
    odd.mkdir()
    Image.new("RGB", (3, 3)).save(odd / "[y].png")
    assert keys(odd / "[y].png") == ["[y].png"]  # an existing file wins over a pattern
    for name in (os.fsdecode(b"\xff.png"), "a::b?.png"):
        (odd / name).write_bytes((odd / "[y].png").read_bytes())
    assert keys(odd) == ["[y].png", "a::b?.png", "\\xff.png"]  # the last name is not valid Unicode
    with pytest.raises(ItaclipError, match="no such file or folder"):
        keys(tmp_path / "nowhere")
    with pytest.raises(ItaclipError, match=r"contains no image .*with their extension, such as folder/\*\.parquet"):
        keys((tmp_path / "empty").mkdir() or tmp_path / "empty")


@pytest.fixture(params=["local", "remote"])
def labelled_source(request: pytest.FixtureRequest, crops: Path, tmp_path: Path) -> Iterator[str]:
    """Images beside what runs of `segment` and `label` wrote there, on disk or in a storage without folders."""
    root = tmp_path / "photos"
    names = ("a.jpg", "sub/b.jpg", "sub/masks/c.png", "segmented/masks/a.png", "segmented/overlays/a.jpg",
             "sub/labelled/masks/range=000000/00000000-000000-end-0123456789abcdef.tar",
             "sub/labelled/labels/range=000000/00000000-000000-end-0123456789abcdef.parquet", "x/part.tar")  # fmt: skip
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tar":
            with tarfile.open(path, "w") as tar:
                tar.add(crops / "2.jpg", "2.jpg")
                tar.add(crops / "6.jpg", "./._2.jpg")  # as macOS adds them
                tar.add(crops / "6.jpg", "__MACOSX/2.jpg")
        else:
            path.write_bytes((crops / "2.jpg").read_bytes())
    (root / "segmented/run.json").write_text('{"weights": "w", "classes": [], "every": 1}')
    (root / "sub/labelled/run.json").write_text('{"key": {}, "plan": {"units": 1, "images": 1, "digest": "d"}}')
    for name in ("._a.jpg", "__MACOSX/a.jpg", ".ipynb_checkpoints/a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no image")
    if request.param == "local":
        yield str(root)
        return
    storage = fsspec.filesystem("memory")
    storage.put(str(root), "/photos", recursive=True)
    yield "memory://photos"
    storage.rm("/photos", recursive=True)


def test_results_of_earlier_runs_and_hidden_files_are_no_sources(labelled_source: str, tmp_path: Path) -> None:
    images = ["a.jpg", "sub/b.jpg", "sub/masks/c.png"]  # the last folder is the user's own
    assert sorted(keys(labelled_source)) == images
    assert sorted(keys(f"{labelled_source}/**/*.jpg")) == images[:2]
    assert sorted(keys(f"{labelled_source}/*/*/*.png")) == images[2:]
    assert keys(f"{labelled_source}/**/*.tar") == ["x/part.tar/2.jpg"]
    source = open_source(labelled_source)
    list(source.units(2))
    assert sorted(source.skipped) == [
        f"{labelled_source}/segmented/{kind}" for kind in ("masks", "overlays")
    ] + [f"{labelled_source}/sub/labelled/{kind}" for kind in ("labels", "masks")]  # fmt: skip
    plan = make_plan(Job(labelled_source, str(tmp_path / "out"), None, None, 2, {}), overwrite=False)
    assert (plan.images, plan.skipped) == (3, source.skipped)  # for the report
    for nothing in ("segmented", "segmented/masks", "sub/labelled/masks/**/*.tar", "sub/labelled/labels/*/*.parquet"):
        with pytest.raises(ItaclipError, match="holds nothing but results of an earlier run"):
            keys(f"{labelled_source}/{nothing}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("lines", [["2.jpg"], ["2.jpg", "a b/ü0.png"], ["straße/图1.png", "\ufeff2.jpg", "6.jpg"]])
def test_a_byte_order_mark_is_no_part_of_a_list(crops: Path, tmp_path: Path, lines: list[str], end: str) -> None:
    shutil.copytree(crops, tmp_path / "crops")
    listing = tmp_path / "crops/listed.txt"
    listing.write_bytes(end.join(lines).encode("utf-8-sig"))
    assert keys(listing) == [line.removeprefix("\ufeff") for line in lines]
    for encoding in ("utf-16-le", "utf-16-be"):
        listing.write_bytes(("\ufeff" + end.join(lines)).encode(encoding))
        with pytest.raises(ItaclipError, match=r"listed\.txt: the list is UTF-16 text; save it as UTF-8"):
            keys(listing)


def test_the_end_of_a_run_leaves_the_partial_files_of_others(tmp_path: Path) -> None:
    root = Location(str(tmp_path))
    with atomic_path(tmp_path / "labels/x.parquet", within=tmp_path / ".partial") as partial:
        partial.write_bytes(b"half")
        root.clear_partial()  # another run ends
        assert partial.read_bytes() == b"half"
    assert (tmp_path / "labels/x.parquet").read_bytes() == b"half"
    (tmp_path / ".partial/of a killed writer").write_bytes(b"half")
    root.clear_partial()
    assert (tmp_path / ".partial").is_dir()
    os.utime(tmp_path / ".partial/of a killed writer", (time.time() - 4000, time.time() - 4000))
    root.clear_partial()
    assert not (tmp_path / ".partial").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"weights": "w", "classes": [], "every": 1}', "written by `itaclip segment`, not by `itaclip label`"),
        ('{"loss": 1}', "written by another program, not by"), ("[1]", "written by another program, not by"),
    ],
)  # fmt: skip
def test_a_destination_with_results_of_another_program(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ItaclipError, match=message):
        Store(Location(str(tmp_path))).read_run()


@pytest.mark.parametrize(
    ("name", "message"),
    [("coco.txt", r"must end in \.json"), ("notes.json", "is no COCO file of this program"),
     ("out/run.json", "choose another file for COCO")],
)  # fmt: skip
@pytest.mark.parametrize("root", ["local", "memory://tests"])
def test_a_coco_file_of_a_collection_replaces_nothing(
    crops: Path, tmp_path: Path, root: str, name: str, message: str
) -> None:
    base = str(tmp_path) if root == "local" else root
    with fsspec.open(f"{base}/notes.json", "w") as file:
        file.write("mine")
    options = LabelOptions(coco=f"{base}/{name}")
    with pytest.raises(ItaclipError, match=message):
        run(crops, f"{base}/out", tmp_path / "log", options=options)


def test_lists_of_paths_and_addresses(crops: Path, tmp_path: Path) -> None:
    listing = crops / "listed.txt"
    listing.write_text(
        f"2.jpg\n\n  a b/ü0.png  \n{crops}/6.jpg\n2.jpg\nfile://{crops}/3.jpg?token={SECRET}\nnowhere.png"
    )
    try:
        found = entries(listing)
        assert [entry.key for entry in found] == [
            "2.jpg", "a b/ü0.png", f"{crops}/6.jpg", f"file://{crops}/3.jpg", "nowhere.png",
        ]  # fmt: skip
        assert found[1].content == (crops / "a b/ü0.png").read_bytes()
        assert "no such file" in str(found[4].error)
        source = open_source(str(listing))
        units = list(source.units(2))
        listing.write_text("6.jpg\n" + listing.read_text())  # after the plan was made
        changed = [entry for unit in units for entry in source.entries(unit)]
        assert any("has changed since it was first read" in str(entry.error) for entry in changed)
    finally:
        listing.unlink()
    same = tmp_path / "same.txt"
    same.write_text("https://a.example/x.jpg?id=1\nhttps://u:p@a.example/x.jpg?id=2\n")
    source = open_source(str(same))
    assert [unit.names for unit in source.units(5)] == [(b"https://a.example/x.jpg", b"https://a.example/x.jpg#2")]


def test_tables(crops: Path, tmp_path: Path) -> None:
    images = [(crops / name).read_bytes() for name in ("2.jpg", "6.jpg", "10.jpg")]
    names = ["eins", "zwei/2", "三"]
    pq.write_table(pa.table({"id": names, "picture": images}), tmp_path / "a.parquet", row_group_size=2)
    assert keys(tmp_path / "a.parquet") == ["a.parquet/0", "a.parquet/1", "a.parquet/2"]
    assert keys(tmp_path / "a.parquet", key="id") == names
    assert entries(tmp_path / "a.parquet")[2].content == images[2]
    nested = pa.table({"image": [{"bytes": images[0], "path": "x"}, {"bytes": None, "path": f"{crops}/6.jpg"}, None]})
    pq.write_table(nested, tmp_path / "b.parquet")
    found = entries(tmp_path / "b.parquet")
    assert [entry.content for entry in found] == [images[0], images[1], None]
    assert found[2].error == "b.parquet/2: the table has no image in this row."
    addressed = pa.table({"where": [f"{crops}/2.jpg", f"file://{crops}/6.jpg"], "text": ["a", "b"]})
    pq.write_table(addressed, tmp_path / "c.parquet")
    assert [entry.content for entry in entries(tmp_path / "c.parquet", column="where")] == images[:2]
    for options, message in (
        ({}, "name the column"),
        ({"column": "wher"}, "no column 'wher'. Did you mean 'where'"),
    ):
        with pytest.raises(ItaclipError, match=message):
            entries(tmp_path / "c.parquet", **options)
    pq.write_table(pa.table({"id": ["a", "a"], "picture": images[:2]}), tmp_path / "d.parquet")
    with pytest.raises(ItaclipError, match=r"column 'id' holds 'a' twice"):
        entries(tmp_path / "d.parquet", key="id")
    (tmp_path / "e.parquet").write_text("nothing")
    with pytest.raises(ItaclipError, match=r"e\.parquet: not a Parquet table"):
        entries(tmp_path / "e.parquet")
    with pytest.raises(ItaclipError, match="only tables"):
        open_source(str(crops), key="id")


def test_archives(crops: Path, tmp_path: Path) -> None:
    for n in range(2):
        with tarfile.open(tmp_path / f"s-{n:03d}.tar", "w") as tar:
            for name in ("2.jpg", "x=1/3.jpg", "a b/ü0.png"):
                tar.add(crops / name, name)
            tar.add(crops / "6.jpg", "2.jpg")  # a name that already exists
            tar.add(ROOT / "README.md", "2.txt")
    inside = ["2.jpg", "x=1/3.jpg", "a b/ü0.png"]
    assert keys(f"{tmp_path}/s-{{000..001}}.tar") == [f"s-00{n}.tar/{name}" for n in range(2) for name in inside]
    assert keys(f"{tmp_path}/*.tar", column="png") == ["s-000.tar/a b/ü0.png", "s-001.tar/a b/ü0.png"]
    assert entries(tmp_path / "s-000.tar")[0].content == (crops / "2.jpg").read_bytes()
    sizes = [(len(part), end) for part, end in split_into_parts(entries(f"{tmp_path}/*.tar"), 4)]
    assert sizes == [(4, False), (2, True)]
    (tmp_path / "t.tar").write_bytes(b"no archive" * 100)
    (bad,) = entries(tmp_path / "t.tar")
    assert bad.key == "t.tar"
    assert "cannot be read beyond 0 images" in str(bad.error)
    with pytest.raises(ItaclipError, match="no such file"):
        keys(f"{tmp_path}/s-{{000..009}}.tar")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "archive"])
def test_tables_and_archives_are_labelled(
    three: Machines, crops: Path, expected: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """A partly finished archive is resumed in the middle."""
    names = sorted(expected)[:7]
    if kind == "table":
        contents = [(crops / name).read_bytes() for name in names]
        pq.write_table(pa.table({"key": names, "image": contents}), tmp_path / "in.parquet", row_group_size=3)
        wanted = {name: expected[name] for name in names}
        run(
            tmp_path / "in.parquet",
            tmp_path / "out",
            tmp_path / "log",
            options=LabelOptions(key="key", part_size=2, threads=1),
        )
        assert_same(itaclip.read_labels(tmp_path / "out"), wanted, set())
        return
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in names:
            tar.add(crops / name, name)
    wanted = {f"in.tar/{name}": expected[name] for name in names}
    run(tmp_path / "in.tar", tmp_path / "out", tmp_path / "log", options=ONE)
    found = sorted((tmp_path / "out/labels").rglob("*.parquet"))
    assert len(found) == 4
    found[1].unlink()
    found[3].unlink()  # the last one: there may be more
    report = run(tmp_path / "in.tar", tmp_path / "out", tmp_path / "log", options=ONE)
    assert (report.done, report.finished) == (3, 1)
    assert_same(itaclip.read_labels(tmp_path / "out"), wanted, set())


# --- networks and secrets --------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> dict[str, dict[str, Any]]:
    """The fsspec options for an S3 server."""
    return {"s3": {"endpoint_url": s3_server, "key": "someone", "secret": SECRET}}


def test_s3_to_s3_without_a_secret_anywhere(
    three: Machines, crops: Path, expected: dict[str, Any], bucket: dict[str, Any], tmp_path: Path
) -> None:
    import s3fs

    system = s3fs.S3FileSystem(**bucket["s3"])
    system.mkdir("photos")
    names = [*sorted(expected)[:8], "broken.jpg"]
    for name in names:
        system.put_file(str(crops / name), f"photos/in/{name}")
    options = replace(ONE, part_size=3, storage=bucket)
    report = run("s3://photos/in", "s3://photos/out", tmp_path / "log", options=options)
    assert (report.done, report.failed) == (9, 1)
    found = itaclip.read_labels("s3://photos/out", storage=bucket)
    assert_same(found, {name: expected[name] for name in names[:-1]}, {"broken.jpg"})
    again = replace(options, coco="s3://photos/coco/all.json", coco_skip=["background"])
    assert run("s3://photos/in", "s3://photos/out", tmp_path / "log", options=again).done == 0
    (tmp_path / "all.json").write_bytes(system.cat_file("photos/coco/all.json"))
    check_coco(tmp_path / "all.json", {name: expected[name] for name in names[:-1]}, {"background"})
    run("s3://photos/in", "s3://photos/out", tmp_path / "log", options=again)  # replaces its own file
    patterned = entries("s3://photos/in/**/*.png", storage=bucket)
    assert {entry.key for entry in patterned} == {name for name in names if name.endswith(".png")}

    # a list whose lines contain passwords and tokens, for a host that does not respond and one that does
    url = bucket["s3"]["endpoint_url"].replace("http://", f"http://me:{SECRET}@") + f"/photos/in/{names[0]}?t={SECRET}"
    dead = f"http://me:{SECRET}@127.0.0.1:9/x.jpg?token={SECRET}"
    (tmp_path / "list.txt").write_text(f"{url}\n{dead}\ns3://photos/in/{names[1]}\n")
    run(tmp_path / "list.txt", tmp_path / "out", tmp_path / "log", options=options)
    rows = list(itaclip.read_labels(tmp_path / "out"))
    assert rows[1].key == "http://127.0.0.1:9/x.jpg"
    assert "cannot be read" in str(rows[1].error)
    assert rows[2].labels is not None

    system.invalidate_cache()
    for name in system.find("photos/out"):
        assert SECRET.encode() not in system.cat_file(name), name
    assert (tmp_path / "out/run.json").is_file()
    logs = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    for path in [*(tmp_path / "out").rglob("*"), *logs.rglob("*")]:
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_secrets_in_addresses_are_rejected_and_not_repeated(tmp_path: Path) -> None:
    for address in (f"https://me:{SECRET}@a.example/x.txt", f"s3://b/x?token={SECRET}", f"https://a:{SECRET}@b@c/x"):
        with pytest.raises(ItaclipError, match="credentials in the environment") as told:
            checked_address(address, "SOURCE")
        assert SECRET not in str(told.value)
    text = f"GET http://u:{SECRET}@h/x?k={SECRET}#f failed for 's3://u:p@ss/{1}@h/y?{SECRET}'"
    assert SECRET not in redacted(text)
    assert "GET http://h/x failed" in redacted(text)


def test_a_report_shows_rate_share_and_time_left() -> None:
    report = LabelReport(
        1000, 10, kept=0, finished=4, done=400, failed=3, busy=150.0, workers=2, gpu=True, seconds=100.0
    )
    assert progress_line(report) == "400/1000 images, 4.0 images/s, GPU workers 75% busy, 3 failed, 150 s left"


def test_all_workers_together_respect_a_rate_limit() -> None:
    limiter = RateLimiter(100)
    assert limiter.reserve(50) == pytest.approx(0, abs=0.01)
    assert limiter.reserve(25) == pytest.approx(0.5, abs=0.05)
    assert limiter.reserve(1) == pytest.approx(0.75, abs=0.05)


# --- the command -----------------------------------------------------------------


@pytest.mark.slow
def test_the_command_starts_ray_itself(crops: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "itaclip", "label", f"{crops}/*.jpg", "--classes", "; ".join(CLASSES), "--out",
        str(tmp_path / "out"), "--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--threads", "1",
        "--workers", "1", "--json", "--coco", str(tmp_path / "coco.json"),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 1, found.stderr
    summary = json.loads(found.stdout)
    assert (summary["done"], summary["failed"]) == (7, 1)
    assert "failed: broken.jpg: damaged" in found.stderr
    assert not re.search(r"core_worker|RAY_|logging\.cc", found.stderr)  # Ray's own lines
    assert len(list(itaclip.read_labels(tmp_path / "out"))) == 7
    assert f"COCO in {tmp_path}/coco.json" in found.stderr.replace("\n", "")
    labelled = {name: result for name, result in expected.items() if name.endswith(".jpg") and "/" not in name}
    check_coco(tmp_path / "coco.json", labelled, set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--part-size", "0"), "part_size = 0: expected 1 or more"),
        (("--limit-rate", "0"), "limit_rate = 0.0: expected more than 0"),
        (("--max-errors", "-1"), "max_errors = -1: expected 0 or more"),
        (("--column", "image"), "only for tables"),
        (("--address", "ray://head:10001"), "ray job submit"),
        (("--device", "cuda:1"), "expected auto, cpu or cuda"),
    ],
)
def test_bad_options(crops: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        program(["label", str(crops), "--classes", "cat", "--model", "demo", "--out", str(tmp_path / "out"), *options])


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import itaclip\n"
        "try: itaclip.label\n"
        "except itaclip.ItaclipError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "install the extra 'ray' (in a checkout: pip install '.[ray]')" in found.stdout


# --- memory ----------------------------------------------------------------------

MEMORY = """
import os, resource, sys
from itaclip import LabelOptions, label

peaks = []
for n, name in enumerate(sys.argv[2:]):
    options = LabelOptions(part_size=2000, threads=1, workers=1)
    report = label(name, ["car"], f"{sys.argv[1]}/out{n}", model="demo", quality="fast", options=options)
    peaks.append((report.done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
print(peaks)
"""


def tiny(folder: Path, kind: str, count: int) -> str:
    """A source with two-byte entries that are not images."""
    if kind == "table":
        table = folder / f"{count}.parquet"
        pq.write_table(pa.table({"image": [b"no"] * count}), table, row_group_size=max(1000, count // 10))
        return str(table)
    if kind == "archive":
        archive = folder / f"{count}.tar"
        with tarfile.open(archive, "w") as tar:
            for n in range(count):
                member = tarfile.TarInfo(f"{n:06d}.png")
                member.size = 2
                tar.addfile(member, io.BytesIO(b"no"))
        return str(archive)
    images = folder / f"images{count}"
    images.mkdir()
    for n in range(count):
        (images / f"{n:06d}.png").write_bytes(b"no")
    return f"{images}/*.png"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["glob", "table", "archive"])
def test_the_driver_s_memory_does_not_grow_with_a_hundred_thousand_entries(tmp_path: Path, kind: str) -> None:
    few, many = tiny(tmp_path, kind, 1000), tiny(tmp_path, kind, 100_000)
    command = [sys.executable, "-c", MEMORY, str(tmp_path), few, few, many]  # a second start of Ray takes some too
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    _, (one, before), (hundred, after) = json.loads(found.stdout.splitlines()[-1].replace("(", "[").replace(")", "]"))
    assert (one, hundred) == (1000, 100_000)
    assert after - before < 20_000  # kB; the keys alone would be as much again
