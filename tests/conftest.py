"""Shared fixtures: reproducible random weights and small data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from make_weights import as_torchscript, make_state_dict
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import itaclip.research.openmmlab  # noqa: F401 - first: it makes mmseg importable beside mmcv-lite
from itaclip import Segmenter
from itaclip.common.demo.dataset import ensure_demo_dataset
from itaclip.core.clip import load_clip
from itaclip.core.clip.openai import CLIP
from itaclip.core.text import TextEncoder

ROOT = Path(__file__).parent.parent

# How long an example takes says nothing about the code on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the user's cache; all processes of a run share one."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITACLIP_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server without buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    return make_state_dict("tiny")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, tiny_state: dict[str, torch.Tensor]) -> Path:
    """An archive in OpenAI's form, which states its activation."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    as_torchscript(tiny_state).save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_torchscript(tmp_path_factory: pytest.TempPathFactory, tiny_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny_jit.pt"
    as_torchscript(tiny_state).save(str(path))
    return path


@pytest.fixture(scope="session")
def second_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second encoder with random weights and patches of 8 pixels, as a file."""
    torch.manual_seed(0)
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    path = tmp_path_factory.mktemp("weights") / "second.safetensors"
    state = {name: value.contiguous() for name, value in VisionTransformer(**shape).state_dict().items()}
    save_file(state, path, metadata={"architecture": json.dumps(shape)})
    return str(path)


@pytest.fixture(scope="session")
def tiny_clip(tiny_weights: Path) -> CLIP:
    return load_clip(str(tiny_weights))


@pytest.fixture(scope="session")
def tiny_text(tiny_clip: CLIP) -> TextEncoder:
    return TextEncoder(tiny_clip)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first scenes of the bundled demo."""
    return ensure_demo_dataset(tmp_path_factory.mktemp("demo") / "demo", scenes=4)


@pytest.fixture(scope="session")
def quick() -> Segmenter:
    """The bundled CLIP with the fastest settings."""
    return Segmenter("demo", "fast", pamr_steps=0)


@pytest.fixture
def class_file(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("background, wall\ncat, kitten\ncup\n")
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "definitions.txt"
    path.write_text("cat >=a small furry animal\ncup >=an open container for drinks\n")
    return path


@pytest.fixture
def voc_like(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set in VOC's layout from images and masks of the given sizes."""

    def make(sizes: list[tuple[int, int]], classes: int = 20) -> Path:
        root = tmp_path / "voc"
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True)
        rng = np.random.default_rng(0)
        names = [f"image_{i}" for i in range(len(sizes))]
        for name, (height, width) in zip(names, sizes, strict=True):
            pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((width, height)).save(root / f"JPEGImages/{name}.jpg")
            mask = rng.integers(0, classes, (height, width), dtype=np.uint8)
            Image.fromarray(mask).save(root / f"SegmentationClass/{name}.png")
        (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")
        return root

    return make
