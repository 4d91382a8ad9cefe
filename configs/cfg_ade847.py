"""ITACLIP on ADE20K with all of its classes: 2,000 images, 847 classes.

    python eval.py --config configs/cfg_ade847.py --data-root data/ADE20K_2021_17_01

Published: nothing for ITACLIP on this data set. The settings are this project's choice:
those of cfg_ade20k.py at a short side of 448, which others use here.
Measured here: not yet; OpenAI's weights and the data set were not available.
The masks are those of the common preparation for detectron2, 16-bit TIFF (docs/datasets.md).
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_ade847.txt",
    background=False,
    img_eng_coefficient=0.75,
    logit_scale=40,
    prob_thd=0,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 448), keep_ratio=True),
    dict(type="ITACLIPLoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="ADE20K847Dataset",
        data_root="data/ADE20K_2021_17_01",
        data_prefix=dict(img_path="images_detectron2/validation", seg_map_path="annotations_detectron2/validation"),
        pipeline=test_pipeline,
    )
)
