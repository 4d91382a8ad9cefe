"""ITACLIP on Pascal Context without background (Context59): 5,104 images, 59 classes.

    python eval.py --config configs/cfg_context59.py --data-root data/VOCdevkit/VOC2010

Published: nothing for ITACLIP on this data set. The settings are this project's choice:
those of cfg_context.py, without thresholds because there is no background.
Measured here: not yet; OpenAI's weights and the data set were not available.
The texts are this project's own (llm_texts/README.md).
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_context59.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/context59_definitions.txt",
    background=False,
    def_coefficient=0.15,
    img_eng_coefficient=0.75,
    logit_scale=55,
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
        type="PascalContext59Dataset",
        data_root="data/VOCdevkit/VOC2010",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
        ann_file="ImageSets/SegmentationContext/val.txt",
        pipeline=test_pipeline,
    )
)
