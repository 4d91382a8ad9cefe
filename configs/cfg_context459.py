"""ITACLIP on Pascal Context with all of its classes: 5,105 images, 459 classes.

    python eval.py --config configs/cfg_context459.py --data-root data/VOCdevkit/VOC2010

Published: nothing for ITACLIP on this data set. The settings are this project's choice:
those of cfg_context59.py at a short side of 448, which others use here, without auxiliary texts.
Measured here: not yet; OpenAI's weights and the data set were not available.
The masks are those of the common preparation for detectron2, 16-bit TIFF (docs/datasets.md).
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_context459.txt",
    background=False,
    img_eng_coefficient=0.75,
    logit_scale=55,
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
        type="PascalContext459Dataset",
        data_root="data/VOCdevkit/VOC2010",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="annotations_detectron2/pc459_val"),
        ann_file="pascalcontext_val.txt",
        pipeline=test_pipeline,
    )
)
