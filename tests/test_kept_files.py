"""No command or call replaces a file that it did not write: inputs above all, by whatever path."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from itaclip import ItaclipError, Segmenter
from itaclip.apps.command.main import main as program
from itaclip.apps.folders.finding import find_items
from itaclip.apps.folders.folder import segment_folder
from itaclip.files import atomic_path, is_hidden, refuse_arguments, refuse_inputs
from itaclip.research.evaluation.loop import OutputFolders
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config
from itaclip.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def words(quick: Segmenter) -> Vocabulary:
    return quick.prepare(["car, taxi", "cloud", "tree"])


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- other spellings -----------------------------------------------------------


def same(photo: Path) -> Path:
    return photo


def dotted(photo: Path) -> Path:
    return photo.parent / ".." / photo.parent.name / photo.name


def symbolic(photo: Path) -> Path:
    (photo.parent.parent / "link").symlink_to(photo.parent, target_is_directory=True)
    return photo.parent.parent / "link" / photo.name


def hard(photo: Path) -> Path:
    (photo.parent.parent / "other").mkdir()
    (photo.parent.parent / "other" / photo.name).hardlink_to(photo)
    return photo.parent.parent / "other" / photo.name


SPELLINGS = [same, dotted, symbolic, hard]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_output_is_compared_with_inputs_by_file(spelling: Callable[[Path], Path], tmp_path: Path) -> None:
    photo = draw(tmp_path / "photos/a.png")
    output = spelling(photo)
    with pytest.raises(ItaclipError, match=r"a\.png: the output would replace the input .*a\.png; do this instead"):
        refuse_inputs([tmp_path / "new.png", output], [draw(tmp_path / "b.png"), photo], "do this instead")
    refuse_inputs([tmp_path / "new.png"], [photo], "")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_save_never_replaces_the_photograph(
    spelling: Callable[[Path], Path], quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    photo = draw(tmp_path / "photos/photo.png")
    folder = spelling(photo).parent
    before = contents(tmp_path)
    result = quick(photo, words)
    with pytest.raises(ItaclipError, match=r"photo\.png: the output would replace the input .*stem='name'"):
        result.save(folder)
    assert contents(tmp_path) == before  # nothing at all was written
    for _ in range(2):  # a second save replaces the first
        saved = result.save(folder, stem="labels")
        assert all(path.is_file() for path in saved.values())
    assert photo.read_bytes() == before["photos/photo.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo.json", b'{"version": "5.5.0", "shapes": [], "imagePath": "photo.jpg"}'),  # labelme's
        ("photo.png", b"a mask that somebody drew"),
        ("photo_overlay.png", b"another photograph"),
    ],
)
def test_save_replaces_only_earlier_saves(
    name: str, content: bytes, quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    result = quick(draw(tmp_path / "photo.jpg"), words)
    (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(ItaclipError, match=rf"{name}: exists, and is not from an earlier save\(\); pass another name"):
        result.save(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / name).unlink()
    result.save(tmp_path)
    first = quick(tmp_path / "photo.jpg", quick.prepare(["car"])).save(tmp_path)  # other classes, the same files
    assert json.loads(first["json"].read_text())["classes"] == ["background", "car"]


# --- segment -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["masks/a.png", "overlays/a.jpg", "masks/sub/a.png"])
def test_segment_refuses_a_folder_with_files_of_other_origin(
    name: str, quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    """Masks that somebody drew lie where the command would write; or they are themselves the inputs."""
    draw(tmp_path / "photos/a.jpg")
    draw(tmp_path / name)
    before = contents(tmp_path)
    for source in (tmp_path / "photos", (tmp_path / name).parent):
        with pytest.raises(ItaclipError, match="exists, but not from `itaclip segment`; choose another --out"):
            segment_folder(quick, words, find_items([source]), tmp_path)
    assert {name: found for name, found in contents(tmp_path).items() if not name.endswith(".lock")} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"key": {"weights": "x"}, "plan": {"units": 1, "images": 1, "digest": "d"}}', "by `itaclip label`"),
        (b'{"loss": 0.1}', "by another program"),
        (b"not JSON", "by another program"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_segment_refuses_the_results_of_other_programs(
    content: bytes, message: str, overwrite: bool, quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    draw(tmp_path / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_bytes(content)
    with pytest.raises(ItaclipError, match=f"written {message}, not by `itaclip segment`; choose another --out"):
        segment_folder(quick, words, find_items([tmp_path / "a.jpg"]), tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out/run.json").read_bytes() == content


def test_a_later_input_under_the_name_of_an_earlier_mask_gets_its_own(
    quick: Segmenter, words: Vocabulary, tmp_path: Path
) -> None:
    for name in ("a.png", "B.png"):
        draw(tmp_path / "photos" / name)
    out = tmp_path / "out"
    segment_folder(quick, words, find_items([tmp_path / "photos"]), out)
    before = contents(out / "masks")
    for seed, name in enumerate(("a.jpg", "b.jpg", "A.webp")):  # each would have come first, or ignores case
        draw(tmp_path / "photos" / name, seed + 1)
    report = segment_folder(quick, words, find_items([tmp_path / "photos"]), out)
    assert (report.kept, report.done) == (2, 3)
    after = contents(out / "masks")
    assert {name: after[name] for name in before} == before
    assert len({name.casefold() for name in after}) == 5
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len({line["mask"] for line in lines}) == 5
    for line in lines:
        with Image.open(out / line["mask"]) as mask:
            np.testing.assert_array_equal(np.asarray(mask), quick(tmp_path / "photos" / line["image"], words).labels)


@pytest.mark.parametrize("name", ["classes.json", "photos/a.json", "coco.txt", "out/run.json"])
def test_a_coco_file_replaces_nothing(name: str, tmp_path: Path) -> None:
    draw(tmp_path / "photos/a.png")
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    if name != "out/run.json":  # that one will exist only when the run has begun
        target.write_text("cloud\n")
    classes = ("--classes-file", target) if name == "classes.json" else ("--classes", "cloud")
    options = ("--model", "demo", "--quality", "fast", "--set", "pamr_steps=0", "--coco", target, *classes)
    with pytest.raises(ItaclipError, match=r"choose another|must end in \.json"):
        program(["segment", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *map(str, options)])
    if name != "out/run.json":
        assert target.read_text() == "cloud\n"
        assert not (tmp_path / "out").exists()


# --- other programs ------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "overlays"), [("SegmentationClass", None), (None, "SegmentationClass"), ("link", "elsewhere")]
)
def test_an_evaluation_never_replaces_the_ground_truth(
    masks: str | None, overlays: str | None, demo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    (root / "link").symlink_to(root / "SegmentationClass", target_is_directory=True)
    config = load_config(ROOT / "configs/cfg_demo.py")
    config.test_dataloader.dataset.update(data_root=str(root), type="BaseSegDataset", metainfo=dict(classes=("a",)))
    config.test_dataloader.dataset.update(
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"), ann_file=""
    )
    dataset = build_dataset(config)
    outputs = OutputFolders(*(root / name if name else None for name in (masks, overlays)))
    with pytest.raises(ItaclipError, match=r"scene_00\d\.png: the output would replace the input"):
        outputs.check(dataset)
    OutputFolders(root / "new", root / "new2").check(dataset)
    OutputFolders().check(dataset)


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary.safetensors", "calibration/photo.png"])
def test_a_saved_segmenter_replaces_only_an_earlier_one(name: str, quick: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights of the user's own")
    with pytest.raises(ItaclipError, match="exists, but not from an earlier save; choose another folder"):
        quick.save_pretrained(tmp_path / "folder")
    assert contents(tmp_path / "folder") == {name: b"weights of the user's own"}
    for _ in range(2):
        quick.save_pretrained(tmp_path / "new")


@pytest.mark.parametrize("others", [{"config": "a.py"}, {"config": ["b.py", "a.py"]}, {"image": Path("./a.py")}])
def test_the_output_of_a_program_is_none_of_its_other_files(
    others: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py"):
        Path(name).write_text(name)
    with pytest.raises(ItaclipError, match=r"a\.py: the output would replace the input .*choose another --out"):
        refuse_arguments("out", {"out": tmp_path / "a.py", "count": 3, "none": None, **others})
    refuse_arguments("out", {"out": None, **others})
    refuse_arguments("out", {"out": Path("new.json"), **others})


def test_a_file_is_written_although_another_process_removes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two runs of `label` do that end and begin at the same moment."""
    real, removed = os.open, []

    def interfere(path: str, *arguments: int, **options: int) -> int:
        if ".partial" in str(path) and not removed:
            removed.append(path)
            Path(path).parent.rmdir()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", interfere)
    with atomic_path(tmp_path / "a.txt", within=tmp_path / ".partial") as partial:
        partial.write_text("a")
    assert removed
    assert (tmp_path / "a.txt").read_text() == "a"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("._photo.jpg", True), (".ipynb_checkpoints/photo-checkpoint.png", True), ("a/__MACOSX/photo.jpg", True),
        ("@eaDir/photo.jpg/SYNOPHOTO_THUMB_M.jpg", True), (".git/x.png", True), ("photo.jpg", False),
        ("./photo.jpg", False), ("../a b/photo.jpg", False), ("a._b/macosx.jpg", False),
    ],
)  # fmt: skip
def test_hidden_names(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden
