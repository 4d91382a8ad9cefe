"""The segmentor inside MMSegmentation: every way of calling it, every kind of image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from itaclip.core.text import TextEncoder
from itaclip.errors import ItaclipError
from itaclip.research.openmmlab import ITACLIPSegmentor

IMAGE = Path(__file__).parent / "images/chelsea.png"
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 224), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]


@pytest.fixture
def options(tiny_weights: Path, class_file: Path, text_file: Path) -> dict[str, Any]:
    return dict(model_name=str(tiny_weights), name_path=str(class_file), auxiliary_text_path=str(text_file),
                background=True, def_coefficient=0.1, slide_stride=112, device="cpu")  # fmt: skip


@pytest.fixture
def segmentor(options: dict[str, Any]) -> ITACLIPSegmentor:
    """A segmentor built as by a user of MMSegmentation: from a configuration, without a checkpoint."""
    model = dict(type="ITACLIPSegmentor", **options)
    config = Config(dict(default_scope="mmseg", model=model, test_pipeline=PIPELINE))
    return init_model(config, None, device="cpu")


def segment(model: ITACLIPSegmentor, image: Any) -> Any:
    """Call `inference_model`, which replaces the configuration's loader by one for arrays."""
    model.cfg.test_pipeline = [dict(step) for step in PIPELINE]
    return inference_model(model, image)


@pytest.mark.parametrize("name", ["ITACLIPSegmentor", "ITACLIP_Segmentor"])
def test_published_configurations_build(name: str, options: dict[str, Any]) -> None:
    published = dict(img_engineering=True, attn_self=True, img_eng_coefficient=0.7, pamr_steps=0, pamr_stride=[8, 16],
                     logit_scale=60, prob_thd=0.1, area_thd=0.1, slide_crop=224, residual=True, dtype="fp32",
                     pretrained=None, width_chunk_size=150, dataset_name="voc21")  # fmt: skip
    model = MODELS.build(dict(type=name, **{**options, **published}))
    assert isinstance(model, ITACLIPSegmentor)
    assert model.settings.area_thd == 0.1
    assert model.settings.pamr_stride == (8, 16)


PUBLISHED_FORMS = {  # the settings of ITACLIP's five configurations, without paths
    "voc21": dict(logit_scale=60, prob_thd=0.1, area_thd=0.1, def_coefficient=0.05, img_eng_coefficient=0.7),
    "context60": dict(logit_scale=55, prob_thd=0.1, def_coefficient=0.15, img_eng_coefficient=0.75),
    "coco_object": dict(logit_scale=50, prob_thd=0.1, def_coefficient=0.1, img_eng_coefficient=0.75,
                        width_chunk_size=250),
    "coco_stuff": dict(logit_scale=40, def_coefficient=0.2, img_eng_coefficient=0.75, width_chunk_size=150),
    "cityscapes": dict(logit_scale=40, def_coefficient=0.05, img_eng_coefficient=0.7),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_FORMS)
def test_the_five_published_configurations_work_unchanged(name: str, tiny_weights: Path) -> None:
    """None of them sets `background`: `dataset_name` implies it, and the texts match the classes."""
    texts = {"voc21": "definitions", "context60": "definitions", "coco_object": "synonyms", "coco_stuff": "definitions",
             "cityscapes": "synonyms"}[name]  # fmt: skip
    form = dict(type="ITACLIP_Segmentor", model_name=str(tiny_weights), img_engineering=True, attn_self=True,
                auxiliary_text_path=str(ROOT / f"llm_texts/{name}_{texts}.txt"), dataset_name=name, slide_stride=28,
                slide_crop=224, pamr_steps=10, pamr_stride=[8, 16], text_cache=False,
                name_path=str(ROOT / f"configs/cls_{name}.txt"), **PUBLISHED_FORMS[name])  # fmt: skip
    encoded: list[str] = []

    def features(self: TextEncoder, words: Sequence[str]) -> torch.Tensor:
        encoded.extend(words)
        return torch.randn(len(words), 64)

    with pytest.MonkeyPatch.context() as patch:  # the texts themselves do not matter here
        patch.setattr(TextEncoder, "forward", features)
        model = MODELS.build(form)
    assert model.settings.background == (name in ("voc21", "context60", "coco_object"))
    assert encoded


def test_unknown_dataset_names_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ItaclipError, match=r"dataset_name = 'voc': expected one of voc21, .*Did you mean 'voc21'"):
        MODELS.build(dict(type="ITACLIPSegmentor", **{**options, "dataset_name": "voc"}))
    with pytest.raises(ItaclipError, match=r"background = True: dataset_name = 'cityscapes' implies False"):
        MODELS.build(dict(type="ITACLIPSegmentor", **{**options, "dataset_name": "cityscapes", "background": True}))


def test_inference_model_accepts_files_arrays_and_lists(segmentor: ITACLIPSegmentor) -> None:
    by_path = segment(segmentor, str(IMAGE))
    array = cv2.imread(str(IMAGE))
    height, width = array.shape[:2]
    assert by_path.pred_sem_seg.data.shape == (1, height, width)
    assert by_path.seg_logits.data.shape == (3, height, width)
    assert 0 <= float(by_path.seg_logits.data.min()) <= float(by_path.seg_logits.data.max()) <= 1
    by_array = segment(segmentor, array)
    assert torch.equal(by_array.pred_sem_seg.data, by_path.pred_sem_seg.data)
    several = segment(segmentor, [array, array[:, :200]])
    assert [s.pred_sem_seg.data.shape[2] for s in several] == [width, 200]
    assert (several[0].pred_sem_seg.data == by_path.pred_sem_seg.data).float().mean() > 0.999


def test_test_step_accepts_a_batch_of_mixed_sizes(segmentor: ITACLIPSegmentor) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator)
              for h, w in ((224, 224), (250, 300), (33, 17))]  # fmt: skip
    originals = [(224, 224), (500, 600), (66, 34)]

    def samples(chosen: list[int]) -> list[SegDataSample]:
        return [SegDataSample(metainfo=dict(ori_shape=originals[i])) for i in chosen]

    together = segmentor.test_step({"inputs": images, "data_samples": samples([0, 1, 2])})
    data = segmentor.data_preprocessor({"inputs": images, "data_samples": samples([0, 1, 2])}, False)
    for sample, other in zip(segmentor.predict(**data, all_scores=False), together, strict=True):
        assert torch.equal(sample.pred_sem_seg.data, other.pred_sem_seg.data)
        assert "seg_logits" not in sample
    for i, result in enumerate(together):
        single = segmentor.test_step({"inputs": [images[i]], "data_samples": samples([i])})[0]
        assert result.pred_sem_seg.data.shape[1:] == originals[i]
        assert (result.pred_sem_seg.data == single.pred_sem_seg.data).float().mean() > 0.999


def test_predict_without_data_samples_and_tensor_mode(segmentor: ITACLIPSegmentor) -> None:
    inputs = torch.randn(2, 3, 224, 240)
    results = segmentor(inputs, mode="predict")
    assert [r.pred_sem_seg.data.shape for r in results] == [(1, 224, 240)] * 2
    scores = segmentor(inputs, mode="tensor")
    assert torch.allclose(scores[1], results[1].seg_logits.data, atol=1e-6)
    assert segmentor.extract_feat(inputs[:, :, :, :224]).shape == (2, 14, 14, 64)
    with pytest.raises(ItaclipError, match="training-free"):
        segmentor(inputs, results, mode="loss")


def test_nothing_is_trainable(segmentor: ITACLIPSegmentor) -> None:
    assert not any(p.requires_grad for p in segmentor.parameters())


# --- image files -------------------------------------------------------------


def write(path: Path, kind: str) -> np.ndarray:
    """Write the cat image in some format; returns the upright BGR pixels that a reader should return."""
    bgr = cv2.imread(str(IMAGE))[:224, :300]
    rgb = Image.fromarray(bgr[..., ::-1])
    if kind == "grey":
        rgb.convert("L").save(path)
        return np.repeat(np.asarray(rgb.convert("L"))[..., None], 3, axis=2)
    if kind == "alpha":
        rgb.putalpha(Image.new("L", rgb.size, 128))
        rgb.save(path)
    elif kind == "16-bit":
        cv2.imwrite(str(path), bgr.astype(np.uint16) * 257)
    elif kind == "palette":
        quantized = rgb.quantize(64)
        quantized.save(path)
        return np.asarray(quantized.convert("RGB"))[..., ::-1]
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # displayed rotated by 90 degrees
        rgb.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    else:
        rgb.save(path)
    return bgr


@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "16-bit", "palette", "rotated"])
def test_every_kind_of_image_file_is_read_upright_and_in_colour(
    kind: str, segmentor: ITACLIPSegmentor, tmp_path: Path
) -> None:
    upright = write(tmp_path / "image.png", kind)
    result = segment(segmentor, str(tmp_path / "image.png"))
    expected = segment(segmentor, np.ascontiguousarray(upright))
    assert result.pred_sem_seg.data.shape == expected.pred_sem_seg.data.shape == (1, *upright.shape[:2])
    assert (result.pred_sem_seg.data == expected.pred_sem_seg.data).float().mean() > 0.99


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha_arrays(channels: int, segmentor: ITACLIPSegmentor) -> None:
    colour = torch.randint(0, 256, (1, 224, 224), dtype=torch.uint8).expand(3, -1, -1)
    expected = segmentor.test_step({"inputs": [colour]})[0].pred_sem_seg.data
    other = colour[:1] if channels == 1 else torch.cat([colour, torch.zeros_like(colour[:1])])
    assert torch.equal(segmentor.test_step({"inputs": [other]})[0].pred_sem_seg.data, expected)
    deep = (other.to(torch.int32) * 257).to(torch.uint16)
    assert torch.equal(segmentor.test_step({"inputs": [deep]})[0].pred_sem_seg.data, expected)


@pytest.mark.parametrize("shape", [(3, 0, 10), (3, 10, 0), (2, 10, 10), (10, 10)])
def test_images_without_pixels_or_with_other_channels_are_rejected(
    shape: tuple[int, ...], segmentor: ITACLIPSegmentor
) -> None:
    with pytest.raises(ItaclipError, match="image of shape"):
        segmentor.test_step({"inputs": [torch.zeros(shape, dtype=torch.uint8)]})
    with pytest.raises(ItaclipError, match="image of shape"):
        segmentor.predict([torch.zeros(shape)])


# --- bad configuration -------------------------------------------------------


def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ItaclipError, match="unknown setting 'logit_scal'"):
        ITACLIPSegmentor(**options, logit_scal=3)
    with pytest.raises(ItaclipError, match="device 'cuda:9' is not available"):
        ITACLIPSegmentor(**{**options, "device": "cuda:9"})
    with pytest.raises(ItaclipError, match=r"none\.txt: no such file"):
        ITACLIPSegmentor(**{**options, "name_path": "none.txt"})
