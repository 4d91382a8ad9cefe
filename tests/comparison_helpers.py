"""A configuration small enough to evaluate many times."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT


def small_config(path: Path, weights: Path, root: Path, dataset: str = "DemoDataset", **model: object) -> Path:
    """Write a configuration of the demo's classes on a data set in VOC's layout."""
    settings = dict(img_engineering=False, slide_crop=64, slide_stride=64, pamr_steps=0, device="cpu") | model
    path.write_text(f"""
_base_ = "{ROOT}/configs/cfg_demo.py"
model = dict(model_name="{weights}", {", ".join(f"{key}={value!r}" for key, value in settings.items())})
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(2048, 64), keep_ratio=True),
            dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type="{dataset}", data_root="{root}",
                                                                 pipeline=pipeline))
""")
    return path
