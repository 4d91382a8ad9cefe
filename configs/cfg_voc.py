"""ITACLIP on Pascal VOC 2012 with background (VOC21): 1,449 images, 21 classes.

    python eval.py --config configs/cfg_voc.py --data-root data/VOCdevkit/VOC2012

Published: 67.9 mIoU (ViT-B/16, PAMR on; without PAMR 65.6).
Measured here: not yet; OpenAI's weights and the data set were not available. The pipeline
matches recorded outputs of the published implementation, see docs/benchmarks.md.
The texts are this project's own (llm_texts/README.md); the published ones were LLaMA's.
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_voc21.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/voc21_definitions.txt",
    background=True,
    def_coefficient=0.05,
    img_eng_coefficient=0.7,
    logit_scale=60,
    prob_thd=0.1,
    area_thd=0.1,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 336), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="PascalVOCDataset",
        data_root="data/VOCdevkit/VOC2012",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=test_pipeline,
    )
)
