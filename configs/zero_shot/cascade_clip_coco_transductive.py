"""Cascade-CLIP, transductive, on COCO-Stuff (156 seen, 15 unseen classes).

    tools/dist_train.sh configs/zero_shot/cascade_clip_coco_transductive.py 4 --data-root data/coco_stuff164k \
        --load-from work_dirs/cascade_clip_coco_inductive/iter_40000.pth
    python tools/test.py configs/zero_shot/cascade_clip_coco_transductive.py \
        work_dirs/cascade_clip_coco_transductive/iter_40000.pth --data-root data/coco_stuff164k

Published: seen mIoU 41.7 ± 0.5, unseen mIoU 62.5 ± 1.0, hIoU 50.0 (computed), pAcc not published.
Measured here: not yet; OpenAI's weights and the data set were not available.
The published run starts from the half-way checkpoint of the inductive one, with its parameters only.
4 images on each of 4 GPUs, as published.
"""

_base_ = "./data_coco.py"

model = dict(
    method="cascade_clip",
    mode="transductive",
    encoder=dict(prompts=50),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False),
]
