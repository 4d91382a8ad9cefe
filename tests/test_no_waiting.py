"""On a GPU nothing inside an image waits for the host, shown without a GPU.

Tensors that claim to lie on one, with shapes and no values, go through the pipeline. What
needs a value on the host (a size that depends on values, ``.item()``) raises; tensors of
two devices meeting raise; copies between host and device are counted.
"""

from __future__ import annotations

import copy

import pytest
import torch
from gpu_helpers import Copies, needs_pretending
from open_clip.model import CLIP
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from itaclip.benchmark.pretended import on_gpu, pretended_gpu
from itaclip.clip import METHODS
from itaclip.confusion import confusion_matrix
from itaclip.pipeline import Pipeline
from itaclip.settings import Settings
from itaclip.text import TextBank, parse_class_names

pytestmark = needs_pretending

CLASSES = parse_class_names(["background, wall", "cat, kitten", "cup"])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_segmented_without_waiting(method: str, dtype: str, tiny_clip: CLIP) -> None:
    settings = Settings(method=method, dtype=dtype, pamr_steps=2, prob_thd=0.1, area_thd=0.05)
    pipeline = Pipeline(copy.deepcopy(tiny_clip), settings)
    sizes = [(200, 300), (45, 150)]
    with pretended_gpu(), Copies() as copies:
        bank = TextBank(torch.empty(len(CLASSES.queries), 64, device="cuda"), CLASSES)
        images = [torch.empty(3, 260, 340, device="cuda"), torch.empty(3, 90, 300, device="cuda")]
        found = on_gpu(pipeline)(images, sizes, bank)
        assert copies.found == []
        for one, size in zip(found, sizes, strict=True):
            assert one.labels.device.type == one.scores.device.type == "cuda"
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
