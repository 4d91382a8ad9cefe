"""ITACLIP on Pascal VOC 2012 without background (VOC20): 1,449 images, 20 classes.

    python eval.py --config configs/cfg_voc20.py --data-root data/VOCdevkit/VOC2012

Published: nothing for ITACLIP on this data set. The settings are this project's choice:
those of cfg_voc.py, without thresholds because there is no background.
Measured here: not yet; OpenAI's weights and the data set were not available.
The texts are this project's own (llm_texts/README.md).
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_voc20.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/voc20_definitions.txt",
    background=False,
    def_coefficient=0.05,
    img_eng_coefficient=0.7,
    logit_scale=60,
    prob_thd=0,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 336), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="PascalVOC20Dataset",
        data_root="data/VOCdevkit/VOC2012",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=test_pipeline,
    )
)
