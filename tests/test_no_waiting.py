"""On a GPU nothing inside an image waits for the host, shown without a GPU.

Tensors that claim to lie on one, with shapes and no values, go through the pipeline. What
needs a value on the host (a size that depends on values, ``.item()``) raises; tensors of
two devices meeting raise; copies between host and device are counted.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gpu_helpers import Copies, needs_pretending
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from itaclip.core.clip.openai import CLIP
from itaclip.core.methods import ON_ANY_TOWER, rfclip
from itaclip.core.pipeline import Pipeline
from itaclip.core.second_encoders import load_second_encoder
from itaclip.core.settings import Settings
from itaclip.core.text import TextBank, parse_class_names
from itaclip.research.benchmark.pretended import on_gpu, pretended_gpu
from itaclip.research.evaluation.confusion import confusion_matrix

pytestmark = needs_pretending

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        pytest.param(method, dtype, marks=() if dtype == "fp16" or method == "itaclip" else pytest.mark.slow)
        for method in ON_ANY_TOWER
        for dtype in ("fp16", "fp32", "bf16")
    ],
)
def test_an_image_is_segmented_without_waiting(
    method: str, dtype: str, tiny_clip: CLIP, second_weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # texts are clustered on the host, once a class list
    monkeypatch.setattr(rfclip, "clusters", lambda text, _: torch.zeros(len(text), dtype=torch.int64, device="cuda"))
    settings = Settings(method=method, dtype=dtype, pamr_steps=2, prob_thd=0.1, area_thd=0.05, map_correction=True,
                        second_encoder=second_weights)  # fmt: skip
    pipeline = Pipeline(copy.deepcopy(tiny_clip), settings)
    pipeline._second[second_weights, dtype] = load_second_encoder(second_weights, dtype=dtype)
    regions = {"felzenszwalb": [np.arange(260 * 340).reshape(260, 340) // 9000, np.zeros((90, 300), int)]}
    sizes = [(200, 300), (45, 150)]
    with pretended_gpu(), Copies() as copies:
        on_gpu(pipeline._second[second_weights, dtype])
        bank = TextBank(torch.empty(len(CLASSES.queries), 64, device="cuda"), CLASSES)
        images = [torch.empty(3, 260, 340, device="cuda"), torch.empty(3, 90, 300, device="cuda")]
        found = on_gpu(pipeline)(images, sizes, bank, regions)
        # region maps go to the GPU, once a pass and once an image; nothing comes back
        assert set(copies.found) <= {"aten._to_copy.default"}
        copies.found.clear()
        for one, size in zip(found, sizes, strict=True):
            assert one.labels.device.type == one.scores.own.device.type == "cuda"
            assert one.labels.shape == size
            matrix = confusion_matrix(one.labels, torch.empty(size, dtype=torch.uint8, device="cuda"), 3)
            assert matrix.device.type == "cpu"
        assert len(copies.found) == len(found)  # the counts, once an image


def test_waiting_would_be_noticed() -> None:
    with pretended_gpu(), Copies() as copies:
        labels = torch.empty(9, dtype=torch.int64, device="cuda")
        with pytest.raises(DynamicOutputShapeException):
            torch.bincount(labels)
        torch.arange(3).to("cuda")
        assert len(copies.found) == 1
