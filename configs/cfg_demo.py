"""ITACLIP on the bundled demo: 48 held-out scenes of a drawn town (29 classes), with the bundled CLIP.

    python eval.py --config configs/cfg_demo.py --show-dir work_dirs/cfg_demo/overlays

Published: nothing; the demo is this project's own.
Measured here: see docs/benchmarks.md.

The demo's CLIP has patches of 8 pixels instead of ViT-B/16's 16, so the published crop, blur and
dilations are halved too; the short side of 168 is half of 336.
"""

_base_ = "./base.py"

model = dict(
    model_name="demo",
    name_path="{{ fileDirname }}/cls_demo.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/demo_definitions.txt",
    background=True,
    def_coefficient=0.05,
    img_eng_coefficient=0.7,
    slide_crop=112,
    slide_stride=56,
    blur_kernel=5,
    blur_sigma=2.5,
    pamr_stride=(4, 8),
    logit_scale=60,
    prob_thd=0.1,
    second_encoder="demo",
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 168), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        type="DemoDataset",
        data_root="data/demo",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=test_pipeline,
    ),
)
