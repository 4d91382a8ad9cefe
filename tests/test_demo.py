"""The bundled demo: scenes, data set, weights, and a meaningful result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from PIL import Image

from itaclip.common.demo.dataset import class_lines, ensure_demo_dataset
from itaclip.common.demo.scenes import SETTINGS, draw_scene
from itaclip.common.demo.world import CLASSES, KINDS
from itaclip.common.figures import legend, overlay, paint_labels, result_figure
from itaclip.common.figures.palette import palette
from itaclip.core.clip import load_clip
from itaclip.core.text import TextEncoder
from itaclip.files import atomic_path
from itaclip.research.demo.captions import caption, colored_kinds
from itaclip.research.evaluation.command import main


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_draws_scenes_determined_by_the_seed(setting: str) -> None:
    scene = draw_scene((256, 320), np.random.default_rng(3), setting=setting)
    assert scene.image.shape == (256, 320, 3)
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    again = draw_scene((256, 320), np.random.default_rng(3), setting=setting)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.labels, again.labels)
    assert not np.array_equal(scene.image, draw_scene((256, 320), np.random.default_rng(4), setting=setting).image)
    assert [scene.things[t][0] for t in np.unique(scene.owner)] == [
        int(scene.labels[scene.owner == t][0]) for t in np.unique(scene.owner)
    ]


def test_every_class_is_drawn_and_held_out_colours_only_on_request() -> None:
    seen: set[int] = set()
    for number in range(40):
        scene = draw_scene((256, 320), np.random.default_rng([8, number]), unseen=False)
        seen |= set(np.unique(scene.labels).tolist())
        assert not any(word and word == KINDS[c].unseen_color for c, word in scene.things)
        shares = np.bincount(scene.labels.ravel(), minlength=CLASSES) / scene.labels.size
        assert scene.classes() == [c for c in range(CLASSES) if shares[c] >= 0.01]
    assert seen == set(range(CLASSES))


def test_captions_name_every_thing_without_held_out_words() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        chosen = [
            (int(c), KINDS[c].colors[0] if KINDS[c].colors else None) for c in rng.choice(CLASSES, 3, replace=False)
        ]
        sentence = caption(chosen, rng, night=True)
        for class_id, _ in chosen:
            assert any(word in sentence for word in (*KINDS[class_id].names, KINDS[class_id].saying))
            assert not any(word in sentence for word in KINDS[class_id].held_out)
    assert all(word != KINDS[class_id].unseen_color for class_id, word in colored_kinds())


def test_words_belong_to_one_class() -> None:
    words = [word for kind in KINDS for word in (*kind.names, *kind.held_out)]
    assert len(words) == len(set(words))
    assert all(len(kind.held_out) == 2 for kind in KINDS)


def test_the_data_set_is_drawn_once_and_atomically(tmp_path: Path) -> None:
    root = ensure_demo_dataset(tmp_path / "demo", scenes=3)
    names = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert len(names) == 3
    for name in names:
        mask = Image.open(root / f"SegmentationClass/{name}.png")
        assert mask.mode == "P"
        assert mask.size == Image.open(root / f"JPEGImages/{name}.jpg").size
        assert np.asarray(mask).max() < CLASSES
    stamp = (root / "ImageSets/Segmentation/val.txt").stat().st_mtime_ns
    ensure_demo_dataset(root, scenes=3)
    assert (root / "ImageSets/Segmentation/val.txt").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_the_class_file_is_the_worlds() -> None:
    assert (ROOT / "configs/cls_demo.txt").read_text().splitlines() == class_lines()


def test_bundled_weights_are_a_small_clip() -> None:
    path = ROOT / "itaclip/core/clip/demo_clip.safetensors"
    assert path.stat().st_size <= 15 * 2**20
    clip = load_clip("demo")
    assert len(clip.visual.transformer.resblocks) == 12
    text = TextEncoder(clip)(["a photo of bricks.", "a photo of a car.", "a photo of a taxi."])
    assert float(text[1] @ text[2]) > float(text[1] @ text[0]) + 0.3  # synonyms are close


def test_the_demo_segments_unseen_scenes(tmp_path: Path) -> None:
    """Eight complete held-out scenes; chance level is below 5 %."""
    status = main(["--config", str(ROOT / "configs/cfg_demo.py"), "--data-root", str(tmp_path / "demo"),
                   "--work-dir", str(tmp_path), "--limit", "8"])  # fmt: skip
    assert status == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["aAcc"] > 60
    assert metrics["mIoU"] > 30


# --- pictures ----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 21, 171, 300, 900])
def test_palette_colours_are_distinct_and_fixed(count: int) -> None:
    colors = palette(count)
    assert len({tuple(c) for c in colors}) == count
    assert colors == palette(1000)[:count]


def test_pictures_have_the_colours_of_their_classes() -> None:
    labels = np.array([[0, 1], [299, 255]])
    colors = palette(300)
    assert paint_labels(labels, colors)[1, 0].tolist() == colors[299]
    few = paint_labels(np.array([[1, 255]]), palette(2))
    assert few[0, 1].tolist() == [0, 0, 0]  # ignored pixels are black
    image = np.full((2, 2, 3), 100, np.uint8)
    assert overlay(image, np.zeros((2, 2), int), palette(1)).shape == (2, 2, 3)


def test_legend_is_never_clipped() -> None:
    labels = np.arange(60).repeat(10).reshape(20, 30)
    names = [f"a rather long class name {i}" for i in range(60)]
    picture = legend(labels, names, palette(60), height=100)
    columns = np.asarray(picture)
    assert (columns[:, -3:] == 255).all()  # white margin at the right border
    assert (columns[-3:] == 255).all()
    figure = result_figure(np.zeros((20, 30, 3), np.uint8), labels, names, labels)
    assert figure.width > 90


# --- files -------------------------------------------------------------------


def test_files_are_written_atomically(tmp_path: Path) -> None:
    target = tmp_path / "deep/result.txt"

    def fail() -> None:
        with atomic_path(target) as partial:
            partial.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_path(target) as partial:
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["result.txt"]


def test_demo_configuration_keeps_the_published_proportions() -> None:
    demo = Config.fromfile(ROOT / "configs/cfg_demo.py").model
    patch = load_clip("demo").visual.conv1.kernel_size[0]
    assert (demo.slide_crop / patch, torch.tensor(demo.pamr_stride).tolist()) == (14, [4, 8])
