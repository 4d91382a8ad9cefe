"""ITACLIP on COCO-Stuff 164k: 5,000 images, 171 classes.

    python eval.py --config configs/cfg_coco_stuff.py --data-root data/coco_stuff164k

Published: 27.0 mIoU (ViT-B/16, PAMR on; without PAMR 26.3).
Measured here: not yet; OpenAI's weights and the data set were not available. The pipeline
matches recorded outputs of the published implementation, see docs/benchmarks.md.
The texts are this project's own (llm_texts/README.md); the published ones were LLaMA's.
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_coco_stuff.txt",
    auxiliary_text_path="{{ fileDirname }}/../llm_texts/coco_stuff_definitions.txt",
    background=False,
    def_coefficient=0.2,
    img_eng_coefficient=0.75,
    logit_scale=40,
    prob_thd=0,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 448), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="COCOStuffDataset",
        data_root="data/coco_stuff164k",
        data_prefix=dict(img_path="images/val2017", seg_map_path="annotations/val2017"),
        pipeline=test_pipeline,
    )
)
