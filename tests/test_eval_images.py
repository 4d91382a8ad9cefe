"""Images of an evaluation: by MMSegmentation's loader where it reads them rightly, else by this project's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from comparison_helpers import small_config
from conftest import ROOT
from image_helpers import BYTES, DARK, DEEP, netpbm, opencv, packed_tiff, pages, pillow, png, tiff
from numpy.typing import NDArray
from PIL import Image

from itaclip import ItaclipError, Segmenter
from itaclip.common.images import check_for_opencv
from itaclip.research.evaluation.command import main as evaluate
from itaclip.research.evaluation.loading import load_batches
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.openmmlab.loading import image_as_loaded, loading_of
from itaclip.research.preparation.inspection import Pair, Tree, inspect_pair
from itaclip.research.preparation.masks import write_label_map

RGB = BYTES[..., :3]


def loaded(root: Path, content: bytes, loader: dict[str, Any] | None = None) -> tuple[Any, str]:
    """Dataset and image as an evaluation loads it, RGB; or the reason why not."""
    (root / "JPEGImages/image_0.jpg").write_bytes(content)
    config = load_config(ROOT / "configs/cfg_demo.py")
    config.test_dataloader.dataset.data_root = str(root)
    steps = config.test_dataloader.dataset.pipeline
    config.test_dataloader.dataset.pipeline = [
        loader or steps[0], *(step for step in steps[1:] if step["type"] != "Resize"),
    ]  # fmt: skip
    dataset = build_dataset(config)
    (batch, skipped), *_ = load_batches(dataset, [range(1)], 0)
    if skipped:
        return dataset, skipped[0][1]
    image = batch["inputs"][0].numpy().transpose(1, 2, 0)[..., ::-1]
    assert np.array_equal(image_as_loaded(str(root / "JPEGImages/image_0.jpg"), loading_of(dataset)), image)
    return dataset, image


ALIKE = {
    "jpeg": pillow("JPEG", np.repeat(RGB, 3, 0)), "png": pillow("PNG", BYTES[..., :4]), "webp": pillow("WEBP", RGB, 6),
    "tiff": tiff(RGB), "16 bits": png(DEEP[..., 0], 0), "gif": pillow("GIF", RGB), "turned": pillow("PNG", RGB, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_both_loaders_give_the_same_pixels(name: str, voc_like: Callable[..., Path]) -> None:
    content = ALIKE[name]
    size = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    root = voc_like([size])
    _, theirs = loaded(root, content)
    _, ours = loaded(root, content, {"type": "ITACLIPLoadImage"})
    np.testing.assert_array_equal(theirs, ours)


WRONG: dict[str, tuple[bytes, str, NDArray[np.uint8] | None]] = {
    "alpha": (tiff(BYTES[..., :4], extrasamples=[2]), "multiply its colours", RGB),
    "dark": (png(DARK[..., :3], 2), "nearly black", np.rint(DARK[..., :3] * (255 / 3000)).astype(np.uint8)),
    "dark tiff": (tiff(DARK[..., :3]), "nearly black", np.rint(DARK[..., :3] * (255 / 3000)).astype(np.uint8)),
    "float": (tiff(DARK[..., :3].astype("f4")), "need a range", np.rint(DARK[..., :3] * (255 / 3000)).astype(np.uint8)),
    "planes": (tiff(DARK[..., :3], True), "nearly black", np.rint(DARK[..., :3] * (255 / 3000)).astype(np.uint8)),
    "pgm": (netpbm(RGB >> 4, 15), "would not scale", (RGB >> 4) * 17),
    "pages": (pages(0, 0), "2 pages", None),
    "bands": (tiff(BYTES), "5 bands", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_opencv_would_read_wrongly_is_skipped_and_has_a_way_out(name: str, voc_like: Callable[..., Path]) -> None:
    content, message, expected = WRONG[name]
    root = voc_like([RGB.shape[:2]])
    _, reason = loaded(root, content)
    assert message in reason
    assert "image_0.jpg" in reason
    assert "ITACLIPLoadImage" in reason
    _, image = loaded(root, content, {"type": "ITACLIPLoadImage", "value_range": (0, 3000)})
    if expected is None:
        assert message in image
    else:
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("kind", ["png", "tiff", "float tiff"])
def test_region_maps_see_the_image_as_it_was_loaded(
    kind: str, tmp_path: Path, tiny_weights: Path, voc_like: Callable[..., Path]
) -> None:
    """An image of many bits, with a range, gives the mask of the same image stored in 8 bits."""
    coarse = np.random.default_rng(len(kind)).integers(0, 3001, (6, 8, 3)).astype(np.uint16)
    deep = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_NEAREST)
    eight = np.rint(deep * (255 / 3000)).astype(np.uint8)
    contents = {"png": png(deep, 2), "tiff": tiff(deep), "float tiff": tiff(deep.astype("f4"))}
    root = voc_like([(48, 64)])
    config = small_config(tmp_path / "cfg.py", tiny_weights, root, regions="felzenszwalb", map_correction=True)
    text, masks = config.read_text(), []
    for content, loader in (
        (contents[kind], '"ITACLIPLoadImage", value_range=(0, 3000)'), (pillow("PNG", eight), '"LoadImageFromFile"'),
    ):  # fmt: skip
        (root / "JPEGImages/image_0.jpg").write_bytes(content)
        config.write_text(text.replace('"LoadImageFromFile"', loader))
        out = tmp_path / f"out_{len(masks)}"
        assert evaluate(["--config", str(config), "--work-dir", str(out), "--out", str(out)]) == 0
        masks.append((out / "image_0.png").read_bytes())
    assert masks[0] == masks[1]


@pytest.mark.parametrize("content", [packed_tiff(DEEP[..., 0], 16), opencv(".tif", DEEP[..., :3]), b"no image", b""])
def test_files_for_the_data_sets_own_loader_pass(content: bytes) -> None:
    check_for_opencv(content, "x")


def test_a_segmenter_reads_like_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "configs/cfg_demo.py").read_text().replace("{{ fileDirname }}", str(ROOT / "configs"))
    text = text.replace("./base.py", str(ROOT / "configs/base.py"))
    config = tmp_path / "cfg_demo.py"
    for value, expected in ((None, None), ((0, 3000), (0.0, 3000.0)), ("stretch", "stretch")):
        loader = f'type="ITACLIPLoadImage", value_range={value!r}'
        config.write_text(text.replace('type="LoadImageFromFile"', loader))
        assert Segmenter.from_config(config, device="cpu").read_options.value_range == expected
    assert Segmenter.from_config(config, value_range=(1, 2)).read_options.value_range == (1, 2)
    config.write_text(text.replace('type="LoadImageFromFile"', 'type="ITACLIPLoadImage", value_range=(2, 1)'))
    with pytest.raises(ItaclipError, match="value_range"):
        Segmenter.from_config(config)


def decoded(path: Path, flags: int) -> NDArray[Any]:
    """An image as mmcv decodes it."""
    found: NDArray[Any] = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    return found


# --- turned photographs ------------------------------------------------------


def tree(folder: Path, turned: bool = True) -> Tree:
    return Tree(folder, folder, None, ".png", ".png", ("a", "b"), turned=turned)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "hand-made TIFF", "WEBP"])
def test_the_remedy_for_a_mask_of_a_turned_photo_works(kind: str, orientation: int, tmp_path: Path) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:8, :12] = 255  # the corner of a thing
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    if kind == "hand-made TIFF":
        image.write_bytes(tiff(stored, orientation=orientation))
    else:
        image.write_bytes(pillow(kind, stored, orientation))
    write_label_map(mask, (stored[..., 0] > 0).astype(np.uint8))
    ((what, remedy, where),) = inspect_pair(tree(tmp_path), Pair(image, mask)).problems
    assert what == "mask of a turned photo is not turned"
    assert "20 x 30, image 30 x 20" in where
    turn = remedy.partition("Image.Transpose.")[2].partition(")")[0]
    with Image.open(mask) as opened:
        labels = np.asarray(opened.transpose(Image.Transpose[turn]))
    write_label_map(mask, labels)
    assert inspect_pair(tree(tmp_path), Pair(image, mask)).problems == []
    seen = decoded(image, cv2.IMREAD_COLOR)[..., 0] > 127
    assert ((labels > 0) == seen).mean() > 0.97


def test_a_mask_of_another_size_is_not_taken_for_an_unturned_one(tmp_path: Path) -> None:
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    for orientation, size in ((1, (30, 20)), (6, (20, 31)), (3, (30, 20))):
        image.write_bytes(pillow("PNG", np.zeros((20, 30, 3), np.uint8), orientation))
        write_label_map(mask, np.zeros(size, np.uint8))
        ((what, _, _),) = inspect_pair(tree(tmp_path), Pair(image, mask)).problems
        assert what == "image and mask differ in size"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_loader_that_turns_nothing_wants_masks_that_are_not_turned(kind: str, tmp_path: Path) -> None:
    """OpenCV turns TIFF all the same."""
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    image.write_bytes(pillow(kind, np.zeros((20, 30, 3), np.uint8), 6))
    size = decoded(image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape[:2]
    assert size == ((30, 20) if kind == "TIFF" else (20, 30))
    write_label_map(mask, np.zeros(size, np.uint8))
    assert inspect_pair(tree(tmp_path, turned=False), Pair(image, mask)).problems == []


def test_an_evaluation_names_the_remedy_too(voc_like: Callable[..., Path]) -> None:
    root = voc_like([(20, 30)])
    _, reason = loaded(root, pillow("JPEG", np.zeros((20, 30, 3), np.uint8), 6))
    assert "the mask is 20 x 30, but the image is 30 x 20" in reason
    assert "ROTATE_270" in reason
