"""Shared by the tests of the trained methods: small models and configurations."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from processes import run_python

from itaclip.research.zero_shot.openmmlab import ZeroShotSegmentor

GOLDEN = Path(__file__).parent / "golden"
UNSEEN = ("flower", "fence", "person", "parasol", "balloon")
METHODS = ("cascade_clip", "clip_rc")


def small_model(method: str, dropout: float = 0.1, **options: Any) -> ZeroShotSegmentor:
    """The demo's CLIP on 32 x 32 pixels: 4 x 4 patches, 2 prompts, 4 regions."""
    encoder = {"image_size": 32, "prompts": 2, "regions": 4, "prompt_dropout": dropout, **options.pop("encoder", {})}
    torch.manual_seed(0)
    return ZeroShotSegmentor(
        method=method, classes="DemoDataset", unseen=options.pop("unseen", UNSEEN), model_name="demo",
        encoder=encoder, head={"dropout": dropout}, windows={"stride": 26}, **options,
    )  # fmt: skip


def batch(count: int = 2, size: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random normalised images and blocky labels of all demo classes, some of them 255."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    blocks = torch.randint(0, 31, (count, 4, 4), generator=generator)
    labels = torch.where(blocks > 28, 255, blocks)
    return images, labels.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)


def samples(labels: torch.Tensor) -> list[SegDataSample]:
    """Data samples with these raw labels."""
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The total loss."""
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


def small_config(folder: Path, method: str = "cascade_clip", iterations: int = 6, extra: str = "") -> Path:
    """A configuration that trains on 12 scenes in about a second; drawn once per folder."""
    path = folder / f"{method}_small.py"
    path.write_text(f'''
_base_ = "{ROOT}/configs/zero_shot/data_demo.py"
model = dict(
    method="{method}", encoder=dict(image_size=32, prompts=2), windows=dict(stride=32)
)
train_cfg = dict(max_iters={iterations})
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end={iterations}, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, keep=2))
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(400, 48), ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(32, 32), cat_max_ratio=0.75), dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(dataset=dict(scenes=12, data_root="{folder}/training", pipeline=train_pipeline)),
)
test_dataloader = dict(dataset=dict(data_root="{folder}/held_out"))
{extra}
''')
    return path


def run_tool(name: str, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a program of tools/ as a user does."""
    return run_python(ROOT / "tools" / name, *arguments, cwd=ROOT, timeout=timeout)
