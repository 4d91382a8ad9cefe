"""CLIP-RC, fully supervised, on COCO-Stuff (156 seen, 15 unseen classes).

    tools/dist_train.sh configs/zero_shot/clip_rc_coco_fully.py 2 --data-root data/coco_stuff164k
    python tools/test.py configs/zero_shot/clip_rc_coco_fully.py \
        work_dirs/clip_rc_coco_fully/iter_80000.pth --data-root data/coco_stuff164k

Published: seen mIoU 42.9, unseen mIoU 64.1, hIoU 51.4, pAcc 70.8.
Measured here: not yet; OpenAI's weights and the data set were not available.
All classes are seen in training; the scores use the zero-shot split.
2 images per GPU, as published; the number of GPUs is not published, and is 2 here.
"""

_base_ = "./data_coco.py"

model = dict(
    method="clip_rc",
    mode="fully",
    encoder=dict(prompts=100),
    loss=dict(mask=100, dice=1.5, recovery=1),
)
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=80000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=80000, by_epoch=False),
]
