"""The Python API: one call from image and names to labels, and clear errors."""

from __future__ import annotations

import copy
import json
import logging
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import itaclip
from itaclip import ItaclipError, Segmenter
from itaclip.common.images import read_image
from itaclip.research.evaluation.command import main as evaluate
from itaclip.vocabulary import CONTRAST_WORDS, split_classes

CLASSES = ["cloud, white cloud", "tree, oak tree", "house, cottage", "balloon, hot-air balloon"]


@pytest.fixture
def quick(quick: Segmenter) -> Segmenter:
    """A copy for each test, so that the classes that it sets are no other's."""
    return copy.copy(quick)


@pytest.fixture
def photo(demo_root: Path) -> Path:
    return demo_root / "JPEGImages/scene_002.jpg"


@pytest.mark.parametrize("name", itaclip.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(itaclip, name).__name__ == name


def test_one_call_from_file_to_labels(quick: Segmenter, photo: Path, demo_root: Path) -> None:
    quick.set_classes(CLASSES)
    result = quick(photo)
    with Image.open(photo) as opened:
        assert result.labels.shape == (opened.height, opened.width)
    assert result.names == ("background", "cloud", "tree", "house", "balloon")
    assert result.labels.dtype == np.int32
    assert result.scores.values.shape == result.scores.classes.shape == (2, *result.labels.shape)
    assert result.scores.values.min() >= 0
    assert result.scores.values.max() <= 1
    with pytest.raises(ItaclipError, match="scores='full'"):
        result.score_map("house")
    # scene 2 shows a house and a balloon, which the miniature CLIP recognises
    with Image.open(demo_root / "SegmentationClass/scene_002.png") as truth:
        ids = np.asarray(truth)
    expected = np.select([ids == 13, ids == 28], [3, 4], 0)
    assert (result.labels == expected).mean() > 0.85


def test_labels_are_those_of_eval_to_the_pixel(demo_root: Path, tmp_path: Path) -> None:
    """`eval.py`, the API and the command line, same input and settings."""
    config = tmp_path / "cfg.py"
    config.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(pamr_steps=2, slide_stride=56)
""")
    assert evaluate(["--config", str(config), "--data-root", str(demo_root), "--limit", "2",
                     "--work-dir", str(tmp_path / "w"), "--out", str(tmp_path / "masks")]) == 0  # fmt: skip
    segmenter = Segmenter.from_config(config)
    from itaclip.apps.command.main import main as command

    inputs = [str(demo_root / f"JPEGImages/scene_00{i}.jpg") for i in range(2)]
    assert command(["segment", *inputs, "--config", str(config), "--out", str(tmp_path / "cli"), "--batch", "2"]) == 0
    for path in inputs:
        name = Path(path).stem
        with Image.open(tmp_path / f"masks/{name}.png") as opened:
            expected = np.asarray(opened)
        np.testing.assert_array_equal(segmenter(path).labels, expected)
        with Image.open(tmp_path / f"cli/masks/{name}.png") as opened:
            np.testing.assert_array_equal(np.asarray(opened), expected)


def test_paths_arrays_and_pil_images_give_the_same_result(quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    quick.set_classes(CLASSES)
    array = read_image(photo)
    Image.fromarray(array).save(tmp_path / "photo.png")
    Image.fromarray(array).convert("RGBA").save(tmp_path / "alpha.png")
    four = np.dstack([array, array[..., :1]])
    results = quick([tmp_path / "photo.png", str(tmp_path / "alpha.png"), Image.fromarray(array), array, four])
    for result in results[1:]:
        np.testing.assert_array_equal(result.labels, results[0].labels)
    assert results[0].source == tmp_path / "photo.png"
    assert results[2].source is None


def test_a_list_gives_what_single_images_give(quick: Segmenter, demo_root: Path) -> None:
    quick.set_classes(CLASSES)
    paths = sorted((demo_root / "JPEGImages").iterdir())
    together = quick(paths)
    for path, result, streamed in zip(paths, together, quick.stream(iter(paths), batch=3), strict=True):
        alone = quick(path)
        np.testing.assert_allclose(result.scores.values, alone.scores.values, atol=1e-5)
        assert (result.labels == alone.labels).mean() > 0.9999
        assert (streamed.labels == alone.labels).mean() > 0.9999


def test_a_stream_reads_ahead_while_it_segments(quick: Segmenter, demo_root: Path) -> None:
    """The second batch is taken before the first is answered; a bad image is raised where it stands."""
    paths = sorted((demo_root / "JPEGImages").iterdir())[:2]
    second_taken, vocabulary = threading.Event(), quick.prepare(["car", "cloud"])

    def images() -> Iterator[Path]:
        yield paths[0]
        second_taken.set()
        yield paths[1]
        yield demo_root / "none.jpg"

    stream = quick.stream(images(), batch=1, vocabulary=vocabulary)
    assert next(stream).source == paths[0]
    assert second_taken.wait(20)
    assert next(stream).source == paths[1]
    with pytest.raises(ItaclipError, match=r"none\.jpg"):
        next(stream)


def test_a_stream_that_is_left_stops_reading(quick: Segmenter, demo_root: Path) -> None:
    path = sorted((demo_root / "JPEGImages").iterdir())[0]
    taken = 0

    def images() -> Iterator[Path]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield path

    stream = quick.stream(images(), batch=1, vocabulary=quick.prepare(["car"]))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken <= 3


def test_the_orientation_of_a_camera_is_applied(photo: Path, tmp_path: Path) -> None:
    upright = read_image(photo)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(read_image(opened), upright)


def test_classes_change_without_loading_again(quick: Segmenter, photo: Path) -> None:
    quick.set_classes(["house"], background=False)
    assert set(np.unique(quick(photo).labels)) == {0}
    quick.set_classes(["house", "balloon"], background=["cardboard box", "blank billboard"])
    result = quick(photo)
    assert result.names == ("background", "house", "balloon")
    assert result.areas["house"] > 0.05


def test_a_call_can_have_its_own_classes_and_settings(quick: Segmenter, photo: Path) -> None:
    quick.set_classes(CLASSES)
    other = quick.prepare(["house", "fire"], background=False)
    assert quick(photo, other).names == ("house", "fire")
    assert quick(photo).names[0] == "background"
    refined, plain = quick(photo, pamr_steps=3), quick(photo)
    assert not np.array_equal(refined.scores.values, plain.scores.values)
    with pytest.raises(ItaclipError, match="dtype = 'bf16': cannot change after loading"):
        quick(photo, dtype="bf16")


def test_threads_do_not_mix_their_classes(quick: Segmenter, photo: Path) -> None:
    lists = [["house", "fire"], ["balloon", "water", "wood"], ["grass"], ["cloud", "tree"]]
    alone = [quick(photo, quick.prepare(classes)).labels for classes in lists]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        for _ in range(2):
            found[i] = quick(photo, quick.prepare(lists[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(lists))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, expected in enumerate(alone):
        np.testing.assert_array_equal(found[i].labels, expected)


def test_definitions_change_only_their_class(quick: Segmenter) -> None:
    plain = quick.prepare(["cat, kitten", "sofa"])
    told = quick.prepare(["cat, kitten", "sofa"], definitions={"Kitten": "a small furry animal"})
    changed = ~torch.isclose(plain.bank.features, told.bank.features).all(dim=1)
    assert {told.bank.class_names.query_to_class[i] for i in changed.nonzero().flatten()} == {1}
    assert int(changed.sum()) == 2


def test_contrast_words_make_way_for_the_classes_own(quick: Segmenter) -> None:
    words = quick.prepare(["brick wall", "clouds"]).bank.class_names.synonyms[0]
    assert set(CONTRAST_WORDS) - set(words) == {"wall", "clouds"}


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ([], {}, "class list is empty"),
        ("cat", {}, r"classes = 'cat': expected a list"),
        (["cat", " "], {}, "line 2: blank"),
        (["cat, ", "dog"], {}, "line 1.*empty synonym"),
        (["cat", "Cat"], {}, "'Cat' already occurs on line 1"),
        (["sofa, couch", "couch"], {}, "'couch' already occurs on line 1"),
        (["cat"], {"background": []}, "background = \\[\\]"),
        (["cat"], {"background": ["cat"]}, "'cat' already occurs"),
        (["cat"], {"definitions": {"cats": "animals"}}, "definition of 'cats'.*Did you mean 'cat'"),
    ],
)
def test_bad_class_lists(quick: Segmenter, classes: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ItaclipError, match=message):
        quick.prepare(classes, **options)


def test_unusual_names_are_accepted_with_a_warning(quick: Segmenter, photo: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = quick.prepare(["кошка", "a cat " * 60, "猫"])
        quick.prepare(["cat"], background=False)
    assert "trained on English" in caplog.text
    assert "longer than CLIP" in caplog.text
    assert "every pixel will be 'cat'" in caplog.text
    assert quick(photo, vocabulary).overlay().width > 0


def bomb(path: Path) -> Path:
    """A PNG of a few bytes that claims to have 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_bad_images_are_reported_by_name(quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    quick.set_classes(CLASSES)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:4000])
    bomb(tmp_path / "bomb.png")
    for name, message in {
        "text.jpg": "not an image", "empty.png": "not an image", "cut.jpg": "damaged", "missing.jpg": "no such file",
        "bomb.png": "too large|at most", ".": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(ItaclipError, match=message) as caught:
            quick(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    small = Segmenter("demo", "fast", largest=1000)
    small.set_classes(CLASSES)
    with pytest.raises(ItaclipError, match="at most 1,000 are accepted"):
        small(photo)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 3), np.float32), "dtype float32: expected height x width x 3, uint8, RGB"),
        (np.zeros((3, 5, 5), np.uint8), r"shape \(3, 5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (torch.zeros(3, 5, 5), r"tensor of shape \(3, 5, 5\).*permute"),
        ([7], "image of type int"),
    ],
)
def test_bad_arrays(quick: Segmenter, image: Any, message: str) -> None:
    quick.set_classes(CLASSES)
    with pytest.raises(ItaclipError, match=message):
        quick(image)


def test_odd_sizes(quick: Segmenter) -> None:
    """One pixel, a line, a very long strip, and an image larger than the working size."""
    quick.set_classes(CLASSES)
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 40), (30, 3000), (2100, 60)):
        result = quick(rng.integers(0, 256, (*size, 3), dtype=np.uint8), scores="full")
        assert result.labels.shape == size
        assert result.score_map(0).shape == size
        assert result.overlay(legend=False).size == size[::-1]


def test_no_classes_yet() -> None:
    with pytest.raises(ItaclipError, match=r'call set_classes\(\["cat", "sofa, couch"\]\) first'):
        Segmenter("demo", "fast")(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ItaclipError, match="quality 'best': expected one of exact"):
        Segmenter("demo", "best")
    with pytest.raises(ItaclipError, match=r"unknown setting 'pamr_step'\. Did you mean 'pamr_steps'"):
        Segmenter("demo", pamr_step=1)


def test_results_have_areas_masks_scores_and_overlays(quick: Segmenter, photo: Path, tmp_path: Path) -> None:
    quick.set_classes(CLASSES)
    result = quick(photo)
    assert sum(result.areas.values()) == pytest.approx(1)
    assert list(result.areas.values()) == sorted(result.areas.values(), reverse=True)
    masks = result.masks()
    assert list(masks) == list(result.areas)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in masks.values()), 1)
    for name, mask in masks.items():
        assert mask.mean() == pytest.approx(result.areas[name])
    np.testing.assert_array_equal(result.mask("house"), result.mask(3))
    with pytest.raises(ItaclipError, match=r"no class 'hous'. Did you mean 'house'"):
        result.mask("hous")
    with pytest.raises(ItaclipError, match="no class 9"):
        result.score_map(9)

    paths = result.save(tmp_path / "out")
    with Image.open(paths["mask"]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), result.labels)
    summary = json.loads(paths["json"].read_text())
    assert summary["areas"].keys() == result.areas.keys()
    with Image.open(paths["overlay"]) as overlay:
        assert overlay.width > result.labels.shape[1]  # the legend is next to it
    with pytest.raises(ItaclipError, match="image from memory"):
        quick(read_image(photo)).save(tmp_path)
    assert result._repr_png_().startswith(b"\x89PNG")
    assert "house" in repr(result)


def test_coco_export_reproduces_the_masks(quick: Segmenter, photo: Path) -> None:
    from pycocotools import mask as rle

    quick.set_classes(CLASSES)
    result = quick(photo)
    exported = json.loads(json.dumps(result.to_coco(image_id=7)))
    names = {category["id"]: category["name"] for category in exported["categories"]}
    assert len(exported["annotations"]) == len(result.masks())
    for annotation in exported["annotations"]:
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, result.mask(names[annotation["category_id"]]))
        assert annotation["area"] == mask.sum()
        assert annotation["image_id"] == 7
        assert annotation["category_id"] == result.names.index(names[annotation["category_id"]]) + 1
        rows, columns = np.nonzero(mask)
        assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_split_classes() -> None:
    assert split_classes("cat; sofa, couch;\n dog ;;") == ["cat", "sofa, couch", "dog"]


def test_the_package_itself_imports_nothing_heavy() -> None:
    program = "import sys, itaclip; assert 'torch' not in sys.modules; itaclip.Segmenter; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_image_needs_no_zoo_of_models(tiny_torchscript: Path) -> None:
    """They take longer to import than everything else together."""
    program = (
        "import sys, numpy, torch\n"
        "with torch.device('meta'): torch.nn.MultiheadAttention(4, 2)\n"
        "of_torch = set(sys.modules)\n"  # torch 2.6 imports sympy for a module without values
        "from itaclip import Segmenter\n"
        "segmenter = Segmenter(sys.argv[1], 'fast', text_cache=False)\n"
        "segmenter.set_classes(['cat', 'sofa, couch'])\n"
        "segmenter(numpy.zeros((40, 50, 3), 'uint8'))\n"
        "heavy = {'open_clip', 'timm', 'transformers', 'torchvision', 'torch._dynamo', 'sympy', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules) - of_torch)"
    )
    for model in ("demo", str(tiny_torchscript)):
        done = subprocess.run([sys.executable, "-c", program, model], capture_output=True, text=True, check=True)
        assert done.stdout.split() == []
