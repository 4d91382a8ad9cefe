"""What the aerial data sets share: SegEarth-OV's windows, short side and logit scale, and MMSegmentation's folders.

Values are those of SegEarth-OV's configurations (github.com/likyoo/SegEarth-OV, commit 3e22a969).
"""

_base_ = "./base.py"

model = dict(slide_stride=112, pamr_steps=0, logit_scale=50)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 448), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"), pipeline=test_pipeline)
)
