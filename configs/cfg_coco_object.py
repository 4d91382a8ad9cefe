"""ITACLIP on COCO-Object: 5,000 images, 80 classes and background.

    python eval.py --config configs/cfg_coco_object.py --data-root data/coco_stuff164k

Published: 37.7 mIoU (ViT-B/16, PAMR on; without PAMR 36.4).
Measured here: not yet; OpenAI's weights and the data set were not available. The pipeline
matches recorded outputs of the published implementation, see docs/benchmarks.md.
The texts are this project's own (llm_texts/README.md); the published ones were LLaMA's.
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_coco_object.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/coco_object_synonyms.txt",
    background=True,
    def_coefficient=0.1,
    img_eng_coefficient=0.75,
    logit_scale=50,
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
        type="COCOObjectDataset",
        data_root="data/coco_stuff164k",
        data_prefix=dict(img_path="images/val2017", seg_map_path="annotations/val2017"),
        pipeline=test_pipeline,
    )
)
