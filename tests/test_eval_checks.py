"""What `eval.py` and `tools/check_dataset.py` say about data sets of other people, before and after a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from preparation_helpers import run_script, write_image, write_mask

from itaclip.errors import ItaclipError
from itaclip.research.evaluation.command import SOME_SKIPPED, main
from itaclip.research.preparation.commands import check_dataset as check
from itaclip.research.preparation.commands.new_dataset import main as new_dataset


class Folder:
    """A data set of a user's own: images, masks, and a configuration of it."""

    def __init__(self, path: Path, weights: str = "missing.pt") -> None:
        self.path, self.weights = path, weights
        self.settings: dict[str, Any] = {
            "img_suffix": ".jpg",
            "seg_map_suffix": ".png",
            "data_prefix": {"img_path": "images", "seg_map_path": "masks"},
        }
        self.classes: Any = ["ground", "water"]
        self.meta: dict[str, Any] = {}

    def fill(self, count: int = 4, values: Sequence[int] = (0, 1), image: str = ".jpg", mask: str = ".png") -> Folder:
        for number in range(count):
            write_image(self.path / f"images/p{number}{image}", 32, 40)
            labels = np.random.default_rng(number).choice(np.array(values), (32, 40))
            write_mask(self.path / f"masks/p{number}{mask}", labels)
        return self

    def config(self) -> str:
        """Write the configuration. Without weights, only checks that come before the model can be reached."""
        (self.path / "cls.txt").write_text("ground\nwater\n")
        dataset = {"_delete_": True, "type": "BaseSegDataset", "data_root": str(self.path), **self.settings}
        dataset["metainfo"] = {"classes": self.classes, **self.meta}
        pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (2048, 64), "keep_ratio": True},
                    {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]  # fmt: skip
        path = self.path / "cfg_own.py"
        path.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(model_name={self.weights!r}, name_path="{self.path}/cls.txt", background=False, img_engineering=False,
             slide_crop=224, slide_stride=224, pamr_steps=0, device="cpu", area_thd=None, auxiliary_text_path=None)
test_dataloader = dict(num_workers=0, dataset=dict({dataset!r}, pipeline={pipeline!r}))
""")
        return str(path)

    def refused(self) -> str:
        """The message with which `eval.py` stops before it looks for the weights."""
        with pytest.raises(ItaclipError) as caught:
            main(["--config", self.config(), "--work-dir", str(self.path / "out")])
        assert "missing.pt" not in str(caught.value)
        return str(caught.value)

    def run(self) -> int:
        return main(["--config", self.config(), "--work-dir", str(self.path / "out")])

    def metrics(self) -> dict[str, Any]:
        return json.loads((self.path / "out/metrics.json").read_text())


@pytest.fixture
def own(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "own")


def checked(own: Folder, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """What `tools/check_dataset.py` prints, with its table in one line."""
    capsys.readouterr()
    assert check.main(["--config", own.config(), "--workers", "1"]) == status
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


# --- settings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "told"), [(".JPG", "4 files end in .JPG"), (".jpeg", "in .jpeg"), (".png", "in .png")]
)
def test_another_suffix_of_images(suffix: str, told: str, own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill(image=suffix)
    message = own.refused()
    assert "no file ends in '.jpg' (img_suffix)" in message
    assert told in message
    assert f"set test_dataloader.dataset.img_suffix={suffix!r}".lower() in message.lower()
    assert told in checked(own, capsys)


def test_images_that_are_left_out_are_mentioned(own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill(3)
    write_image(own.path / "images/other.JPG")
    assert "1 file ends in .JPG; only files that end in '.jpg'" in checked(own, capsys, 0)


def test_the_wrong_folder_of_images(own: Folder) -> None:
    own.fill()
    own.settings["data_prefix"] = {"img_path": "masks", "seg_map_path": "images"}
    message = own.refused()
    assert "4 files end in .png" in message
    assert "data_prefix.img_path='images'" in message
    (own.path / "empty").mkdir()
    own.settings["data_prefix"] = {"img_path": "empty", "seg_map_path": "masks"}
    assert "there is no file" in own.refused()
    own.settings["data_prefix"] = {"img_path": "images"}
    assert "set test_dataloader.dataset.data_prefix.seg_map_path" in own.refused()
    (own.path / "list.txt").write_text("")
    own.settings |= {"data_prefix": {"img_path": "images", "seg_map_path": "masks"}, "ann_file": "list.txt"}
    assert "list.txt: lists no image (ann_file)" in own.refused()


@pytest.mark.parametrize(
    ("mask", "told"), [("_mask.png", "end in '_mask.png'"), (".PNG", "end in '.PNG'"), ("-label.png", "'-label.png'")]
)
def test_another_suffix_of_masks(mask: str, told: str, own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    message = own.fill(mask=mask).refused()
    assert "all 4 masks are missing: p0.png, p1.png, p2.png, ... (seg_map_suffix='.png')" in message
    assert told in message
    assert told in checked(own, capsys)


def test_masks_elsewhere(own: Folder) -> None:
    own.fill()
    (own.path / "masks").rename(own.path / "annotations")
    (own.path / "masks").mkdir()
    assert f"p0.png lies in {own.path / 'annotations'}" in own.refused()
    own.settings["img_suffix"] = "jpg"
    assert "has no dot; do you mean '.jpg'" in own.refused()


@pytest.mark.parametrize("palette", [None, [[1, 2, 3]], [[1, 2, 3]] * 5])
@pytest.mark.parametrize("classes", ["water", "sky, water", "ground.txt"])
def test_classes_as_a_text(classes: str, palette: Any, own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill().classes = classes
    own.meta = {"palette": palette} if palette else {}
    message = own.refused()
    assert "test_dataloader.dataset.metainfo.classes is the text" in message
    assert "cfg_own.py" in message
    names = [name.strip() for name in classes.split(",")]
    assert f"Write classes={names!r}" in message
    with pytest.raises(ItaclipError, match="is the text"):
        checked(own, capsys)


def test_a_file_of_classes_is_read(own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """As MMEngine does with a text that is the path of a file."""
    own.fill().classes = str(own.path / "cls.txt")
    assert "2 of 2 classes seen" in checked(own, capsys, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"palette": [[1, 2, 3]]}, "palette has 1 colour, but there are 2 classes"),
        ({"palette": [[1, 2, 3]] * 3}, "palette has 3 colours"),
        ({"palette": [[1, 2, 3], [1, 2]]}, r"palette[1] is [1, 2]"),
        ({"palette": [[1, 2, 300], [0, 0, 0]]}, r"palette[0] is [1, 2, 300]"),
        ({"palette": "red"}, "expected one [r, g, b] per class"),
        ({"classes": ["water", "water"]}, "'water' is class 0 already"),
        ({"classes": ["water", 3]}, "classes[1] is 3"),
        ({"classes": []}, "classes is []"),
    ],
)
def test_bad_classes_and_palettes(change: dict[str, Any], told: str, own: Folder) -> None:
    own.fill().meta = change
    assert told in own.refused()


def test_other_bad_settings(own: Folder) -> None:
    own.fill().settings["type"] = "PascalVOCDatset"
    assert "not registered. Did you mean" in own.refused()
    own.settings |= {"type": "PascalVOCDataset", "ann_file": ""}
    own.classes = ["cat", "dogg"]
    assert "'dogg' is no class of PascalVOCDataset, of which it selects some. Did you mean 'dog'?" in own.refused()
    own.settings |= {"type": "BaseSegDataset", "unknown": 1}
    assert "BaseSegDataset cannot be built" in own.refused()


def test_nobody_sees_a_traceback(own: Folder) -> None:
    own.fill(image=".JPG")
    done = run_script("eval.py", "--config", own.config())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "4 files end in .JPG" in done.stderr


# --- the values of masks -----------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P", "mixed"])
def test_binary_masks_are_recognised(mode: str, own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """0 and 255 in grey, in a palette, and masks without the object among them."""
    own.fill(3, (0, 255))
    if mode == "P":
        write_mask(own.path / "masks/p0.png", np.full((32, 40), 255), "P")
    if mode == "mixed":
        write_mask(own.path / "masks/p1.png", np.zeros((32, 40)))
    for told in (own.refused(), checked(own, capsys)):
        assert "contain only 0 and 255" in told
        assert "'water' would never occur" in told
        assert "--colors binary" in told
    arguments = [str(own.path / "images"), str(own.path / "masks"), "--classes", str(own.path / "cls.txt"),
                 "--name", "lake", "--out", str(own.path / "set")]  # fmt: skip
    assert new_dataset(ROOT / "configs/base.py", arguments) == 1
    assert "--colors binary" in capsys.readouterr().out
    assert not (own.path / "set").exists()


def test_a_border_of_255_is_no_binary_mask(own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """One pixel of class 1, in a mask that the sample of 50 does not contain, is enough."""
    own.fill(120, (0, 255))
    labels = np.zeros((32, 40))
    labels[3, 4] = 1
    write_mask(own.path / "masks/p11.png", labels)  # the 5th by name, the sample takes every third
    assert "1 class without a pixel in 40 of 120 masks: water" in checked(own, capsys, 0)


@pytest.mark.parametrize(
    ("values", "told"),
    [((0, 127), "--values 0=ID 127=ID"), ((38, 75), "--values 38=ID 75=ID"), ((0, 128, 255), "0=ID 128=ID 255=ID")],
)
def test_grey_values_are_offered_a_conversion(
    values: tuple[int, ...], told: str, own: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    own.fill(values=values)
    assert told in own.refused()
    assert "tools/convert_masks.py" in checked(own, capsys)


def test_masks_compressed_with_loss(own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill(mask=".jpg", values=(0, 1, 90)).settings["seg_map_suffix"] = ".jpg"
    assert "compressed with loss, which changes ids. Export them as PNG" in own.refused()
    assert "compressed with loss" in checked(own, capsys)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "own palettes"])
def test_colours_are_offered_a_conversion(mode: str, own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill(3)
    for number in range(3):
        path = own.path / f"masks/p{number}.png"
        with Image.open(path) as image:
            if mode == "own palettes":
                other = image.convert("P")
                other.putpalette([255, 0, 0, 0, 0, 255] if number else [0, 0, 255, 255, 0, 0])
            else:
                other = image.convert(mode)
        other.save(path)
    assert "tools/convert_masks.py" in checked(own, capsys)
    if mode != "own palettes":
        assert "convert_masks.py MASKS --colors" in own.refused()


@pytest.mark.parametrize(("values", "zero"), [((255,), False), ((0, 255), True), ((0,), True)])
def test_masks_without_a_labelled_pixel(
    values: tuple[int, ...], zero: bool, own: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    own.fill(values=values).settings["reduce_zero_label"] = zero
    message = own.refused()
    assert ("no pixel of any class" in message) or ("binary" in message and values == (0, 255))
    checked(own, capsys)


def test_set_up_reports_absent_classes_and_ignored_pixels(own: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    own.fill(values=(0, 1, 255, 255))
    (own.path / "cls.txt").write_text("ground\nwater\nbridge\n")
    arguments = [str(own.path / "images"), str(own.path / "masks"), "--classes", str(own.path / "cls.txt"),
                 "--name", "lake", "--out", str(own.path / "set")]  # fmt: skip
    assert new_dataset(ROOT / "configs/base.py", arguments) == 0
    told = capsys.readouterr().out
    assert "1 class without a pixel in 4 of 4 masks: bridge" in told
    assert "of the pixels in 4 of 4 masks are ignored" in told


# --- after a run -------------------------------------------------------------


def test_the_report_names_absent_classes_and_ignored_pixels(
    own: Folder, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.weights = str(tiny_weights)
    own.fill(4, (0, 1))
    for number, columns in enumerate((35, 39, 40)):
        write_mask(own.path / f"masks/p{number}.png", np.where(np.arange(40) < columns, 255, 0)[None].repeat(32, 0))
    assert own.run() == 0
    told = " ".join(capsys.readouterr().out.split())
    ignored = 32 * (35 + 39 + 40)
    assert f"{ignored / (4 * 32 * 40):.0%} of the pixels in 4 masks are ignored" in told
    metrics = own.metrics()
    assert metrics["ignored_pixels"] == ignored
    assert metrics["pixels"] == 4 * 32 * 40 - ignored
    assert metrics["classes_without_pixels"] == []

    own.fill(4, (0,))
    assert own.run() == 0
    assert "1 class without a pixel in 4 masks: water" in " ".join(capsys.readouterr().out.split())
    assert own.metrics()["classes_without_pixels"] == ["water"]
    assert len(own.metrics()["notes"]) == 1


def test_missing_masks_are_counted_and_do_not_end_the_run(
    own: Folder, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.weights = str(tiny_weights)
    own.fill(8)
    for number in (1, 2, 4, 5, 7):
        (own.path / f"masks/p{number}.png").unlink()
    assert own.run() == SOME_SKIPPED
    told = capsys.readouterr().out
    assert "5 of 8 masks are missing: p1.png, p2.png, p4.png, ..." in told
    assert told.count("p7.") == 0
    assert "skipped: 5 images" in told
    assert [entry["reason"] for entry in own.metrics()["skipped"]] == ["its mask is missing"] * 5
    assert own.metrics()["images"] == 3


def test_a_run_without_a_labelled_pixel_shows_no_table(
    own: Folder, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first image is not labelled, and --limit takes only that one."""
    own.weights = str(tiny_weights)
    own.fill(3)
    write_mask(own.path / "masks/p0.png", np.full((32, 40), 255))
    command = ["--config", own.config(), "--work-dir", str(own.path / "out"), "--limit", "1"]
    assert main(command) == SOME_SKIPPED
    told = capsys.readouterr().out
    assert "no scores" in told
    assert "IoU" not in told
    assert own.metrics()["mIoU"] is None
