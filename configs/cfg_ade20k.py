"""ITACLIP on ADE20K: 2,000 images, 150 classes.

    python eval.py --config configs/cfg_ade20k.py --data-root data/ade/ADEChallengeData2016

Published: nothing for ITACLIP on this data set. The settings are this project's choice:
those of cfg_coco_stuff.py, without thresholds because there is no background, at a short side of 336.
Measured here: not yet; OpenAI's weights and the data set were not available.
The texts are this project's own (llm_texts/README.md).
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_ade20k.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/ade20k_definitions.txt",
    background=False,
    def_coefficient=0.2,
    img_eng_coefficient=0.75,
    logit_scale=40,
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
        type="ADE20KDataset",
        data_root="data/ade/ADEChallengeData2016",
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    )
)
