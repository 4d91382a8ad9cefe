"""Published settings compared with the published repositories, and how a preset changes a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from itaclip.core.methods import METHODS, ResCLIP
from itaclip.core.settings import Settings
from itaclip.core.text import read_class_names
from itaclip.errors import ItaclipError
from itaclip.research.evaluation.presets import DATASETS, common, published
from itaclip.research.evaluation.protocol import apply_protocol
from itaclip.research.openmmlab.configuration import load_config

TYPE_OF = {name: kind for kind, name in DATASETS.items()}
CONFIG_OF = {"voc21": "voc", "context60": "context"}

# short side, crop, stride, scale, prob_thd, area_thd, PAMR steps; typed from the repositories' configurations
TABLE = {
    "sclip": """
        voc21       336 224 112 65 0.1 0.1 0
        voc20       336 224 112 40 0   -   0
        context60   336 224 112 50 0.1 -   0
        context59   336 224 112 40 0   -   0
        coco_object 336 224 112 50 0.1 -   0
        coco_stuff  448 224 112 40 0   -   0
        cityscapes  560 224 112 40 0   -   0
        ade20k      336 224 112 40 0   -   0""",
    "clearclip": """
        voc21       448 448 224 50 0.5  - 0
        voc20       448 448 224 50 0    - 0
        context60   448 448 224 50 0.15 - 0
        context59   448 448 224 50 0    - 0
        coco_object 448 448 224 50 0.4  - 0
        coco_stuff  448 448 224 50 0    - 0
        cityscapes  448 224 224 50 0    - 0
        ade20k      448 448 224 50 0    - 0""",
    "naclip": """
        voc21       336 0   112 40 0.1 - 10
        voc20       336 0   112 40 0   - 10
        context60   336 224 112 40 0.1 - 10
        context59   336 224 112 40 0   - 10
        coco_object 336 224 112 40 0.1 - 10
        coco_stuff  336 224 112 40 0   - 10
        cityscapes  560 224 112 40 0   - 10
        ade20k      336 224 112 40 0   - 10""",
    "itaclip": """
        voc21       336 224 28 60 0.1 0.1 10
        context60   336 224 28 55 0.1 -   10
        coco_object 336 224 28 50 0.1 -   10
        coco_stuff  448 224 28 40 0   -   10
        cityscapes  560 224 28 40 0   -   10""",
    "scclip": """
        voc21       336 224 112 50 0.15 0.1 0
        voc20       336 224 112 40 0    -   0
        context60   336 224 112 40 0.15 -   0
        context59   336 224 112 40 0    -   0
        coco_object 336 224 112 55 0.35 -   0
        coco_stuff  336 224 112 40 0    -   0
        cityscapes  560 224 112 40 0    -   0
        ade20k      336 224 112 40 0    -   0""",
    "resclip": """
        voc21       336 0   112 40 0.1 - 0
        voc20       336 0   112 40 0   - 0
        context60   336 224 112 40 0.1 - 0
        context59   336 224 112 40 0   - 0
        coco_object 336 224 112 40 0.1 - 0
        coco_stuff  336 224 112 40 0   - 0
        cityscapes  560 224 112 40 0   - 0
        ade20k      336 224 112 40 0   - 0""",
    **dict.fromkeys(
        ("proxyclip", "corrclip"),
        """
        voc21       336 336 112 40 0.2  - 0
        voc20       336 336 112 40 0    - 0
        context60   336 336 112 40 0.15 - 0
        context59   336 336 112 40 0    - 0
        coco_object 336 336 112 40 0.25 - 0
        coco_stuff  336 336 112 40 0    - 0
        cityscapes  448 224 112 40 0    - 0
        ade20k      448 336 112 40 0    - 0""",
    ),
    "ovstitcher": """
        voc21       448 336 112 40 0.1 - 0
        voc20       448 336 112 40 0   - 0
        context60   448 336 112 40 0.1 - 0
        context59   448 336 112 40 0   - 0
        coco_object 448 336 112 40 0.2 - 0
        coco_stuff  448 336 224 40 0   - 0
        cityscapes  560 224 112 40 0   - 0
        ade20k      448 336 112 40 0   - 0""",
    "rfclip": """
        voc21       336 0   112 40 0.1 - 0
        context60   336 224 112 40 0.1 - 0
        coco_object 336 224 112 40 0.1 - 0
        coco_stuff  336 224 112 40 0   - 0
        cityscapes  560 224 112 40 0   - 0
        ade20k      336 224 112 40 0   - 0""",
}
ROWS = [(method, *line.split()) for method, text in TABLE.items() for line in text.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_presets_are_the_published_settings(row: tuple[str, ...], tmp_path: Path) -> None:
    method, dataset, side, crop, stride, scale, threshold, area, steps = row
    config = load_config(ROOT / f"configs/cfg_{CONFIG_OF.get(dataset, dataset)}.py")
    apply_protocol(config, tmp_path, method, "published")
    fields = {k: v for k, v in config.model.items() if k in Settings.__dataclass_fields__}
    settings = Settings(**fields)
    found = (settings.slide_crop, settings.slide_stride, settings.logit_scale, settings.prob_thd, settings.pamr_steps)
    assert found == (int(crop), int(stride), float(scale), float(threshold), int(steps))
    assert settings.area_thd == (None if area == "-" else float(area))
    assert settings.method == method
    assert settings.img_engineering == settings.closing == (method == "itaclip")
    assert bool(config.model.auxiliary_text_path) == (method == "itaclip")
    assert settings.padding == ("centre" if method in ("clearclip", "proxyclip", "corrclip", "ovstitcher") else "end")
    assert settings.map_correction == (method in ("corrclip", "ovstitcher"))
    if settings.map_correction:
        assert settings.regions == {"corrclip": "sam2", "ovstitcher": "sam2-64"}[method]
    assert config.test_dataloader.dataset.pipeline[1].scale == (2048, int(side))


def test_the_settings_of_other_encoders(tmp_path: Path) -> None:
    """RADSeg's long sides, windows and peaks; TIPSv2's own windows, temperature and templates, for any method."""
    for name, side, stride in (("voc20", 576, 112), ("context59", 688, 224), ("ade20k", 576, 224)):
        config = load_config(ROOT / f"configs/cfg_{name}.py")
        apply_protocol(config, tmp_path, "radseg", "published")
        assert config.test_dataloader.dataset.pipeline[1].scale == (side, side)
        settings = Settings(**{k: v for k, v in config.model.items() if k in Settings.__dataclass_fields__})
        assert (settings.slide_crop, settings.slide_stride, settings.logit_scale) == (336, stride, 100)
        assert (settings.peak_thd, settings.prob_thd) == (0.5, 0)
    for method in (None, "naclip"):
        config = load_config(ROOT / "configs/cfg_ade20k.py")
        assert "TIPS" in str(apply_protocol(config, tmp_path, method, "tipsv2"))
        settings = Settings(**{k: v for k, v in config.model.items() if k in Settings.__dataclass_fields__})
        assert (settings.slide_crop, settings.slide_stride, settings.logit_scale) == (448, 336, 1)
        assert (settings.templates, settings.method) == ("tcl", method or "maskclip")
        assert config.test_dataloader.dataset.pipeline[1].scale == (2048, 448)


def test_resclip_has_its_numbers_for_every_data_set(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/cfg_voc.py")
    apply_protocol(config, tmp_path, "resclip", "published")
    settings = Settings(method="resclip", method_options=config.model.method_options)
    expected = ResCLIP(residual_scale=2, residual_weight=0.3, feedback_scale=2.2, feedback_weight=0.7, threshold=0.5)
    assert settings.resolved_method(12) == expected


def test_class_words_are_those_of_each_repository(tmp_path: Path) -> None:
    """Numbers of queries, typed from the class files of the repositories."""

    def words(method: str, name: str) -> tuple[tuple[str, ...], ...]:
        config = load_config(ROOT / f"configs/cfg_{name}.py")
        apply_protocol(config, tmp_path / method, method, "published")
        return read_class_names(config.model.name_path, config.model.background).synonyms

    assert len(words("sclip", "voc")[0]) == 26
    assert words("sclip", "voc") == words("naclip", "voc")
    assert words("gem", "voc")[0] == ("background",)
    assert words("clearclip", "voc")[15] == ("person",)
    assert len(words("clearclip", "voc")) == 21
    assert len(words("sclip", "voc20")[14]) == 7
    assert words("clearclip", "voc20") == read_class_names(ROOT / "configs/cls_voc20.txt").synonyms
    marked = tmp_path / "labels.txt"
    marked.write_text("__ignore__\n" + (ROOT / "configs/cls_voc20.txt").read_text())
    config = load_config(ROOT / "configs/cfg_voc20.py")
    config.model.name_path = str(marked)
    apply_protocol(config, tmp_path / "marked", "sclip", "published")
    assert read_class_names(config.model.name_path).synonyms == words("sclip", "voc20")
    assert words("naclip", "cityscapes")[11] == ("person",)
    assert words("itaclip", "voc") == read_class_names(ROOT / "configs/cls_voc21.txt", True).synonyms
    for method in ("sclip", "clearclip"):
        for name in ("voc", "voc20", "context", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k"):
            assert words(method, name)  # no word belongs to two classes


@pytest.mark.parametrize("method", METHODS)
def test_common_is_the_same_for_every_method(method: str, tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/cfg_voc.py")
    apply_protocol(config, tmp_path, method, "common")
    reference = load_config(ROOT / "configs/cfg_voc.py")
    apply_protocol(reference, tmp_path, "clip", "common")
    assert {**config.model, "method": ""} == {**reference.model, "method": ""}
    assert config.model.auxiliary_text_path is None
    assert config.model.name_path.endswith("configs/cls_voc21.txt")
    assert config.test_dataloader.dataset.pipeline[1].scale == (2048, 336)


def test_common_on_other_data_sets() -> None:
    assert common("CityscapesDataset", background=False).settings["prob_thd"] == 0
    assert common("MyDataset", background=True).settings["prob_thd"] == 0.1
    assert common("DemoDataset", background=True).settings["slide_crop"] == 112


@pytest.mark.parametrize(
    ("preset", "switch", "steps"),
    [("published", None, 10), ("published", "off", 0), ("common", None, 0), ("common", "on", 10), (None, "on", 10),
     (None, "off", 0)],
)  # fmt: skip
def test_pamr_is_independent_of_the_preset(preset: str | None, switch: str | None, steps: int, tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/cfg_voc.py")
    apply_protocol(config, tmp_path, "naclip", preset, switch)  # type: ignore[arg-type]
    assert config.model.pamr_steps == steps


def test_missing_published_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ItaclipError, match=r"'itaclip' has no published settings for ade20k; it has them for voc21"):
        published("itaclip", TYPE_OF["ade20k"])
    with pytest.raises(ItaclipError, match=r"'mine' has no published settings for voc21; only clip,"):
        published("mine", TYPE_OF["voc21"])
    config = load_config(ROOT / "configs/cfg_demo.py")
    with pytest.raises(ItaclipError, match=r"no published settings for DemoDataset.*--preset common"):
        apply_protocol(config, tmp_path, "sclip", "published")
    with pytest.raises(ItaclipError, match=r"--method sclib: expected .* Did you mean 'sclip'"):
        apply_protocol(config, tmp_path, "sclib")


def test_a_configuration_to_which_a_preset_does_not_apply_is_rejected(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/cfg_voc.py")
    config.test_dataloader.dataset.pipeline.pop(1)
    with pytest.raises(ItaclipError, match="0 Resize steps"):
        apply_protocol(config, tmp_path, "sclip", "published")
    config.model.auxiliary_text_path = None
    with pytest.raises(ItaclipError, match="auxiliary texts"):
        apply_protocol(config, tmp_path, "itaclip", "published")
