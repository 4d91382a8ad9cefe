"""ITACLIP on Pascal Context with background (Context60): 5,104 images, 60 classes.

    python eval.py --config configs/cfg_context.py --data-root data/VOCdevkit/VOC2010

Published: 37.5 mIoU (ViT-B/16, PAMR on; without PAMR 36.0).
Measured here: not yet; OpenAI's weights and the data set were not available. The pipeline
matches recorded outputs of the published implementation, see docs/benchmarks.md.
The texts are this project's own (llm_texts/README.md); the published ones were LLaMA's.
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_context60.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/context60_definitions.txt",
    background=True,
    def_coefficient=0.15,
    img_eng_coefficient=0.75,
    logit_scale=55,
    prob_thd=0.1,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 336), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="PascalContext60Dataset",
        data_root="data/VOCdevkit/VOC2010",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
        ann_file="ImageSets/SegmentationContext/val.txt",
        pipeline=test_pipeline,
    )
)
