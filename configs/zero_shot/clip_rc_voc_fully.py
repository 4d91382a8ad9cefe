"""CLIP-RC, fully supervised, on VOC (15 seen, 5 unseen classes).

    tools/dist_train.sh configs/zero_shot/clip_rc_voc_fully.py 2 --data-root data/VOCdevkit/VOC2012
    python tools/test.py configs/zero_shot/clip_rc_voc_fully.py \
        work_dirs/clip_rc_voc_fully/iter_40000.pth --data-root data/VOCdevkit/VOC2012

Published: seen mIoU 94.1, unseen mIoU 93.4, hIoU 93.7, pAcc 97.1.
Measured here: not yet; OpenAI's weights and the data set were not available.
All classes are seen in training; the scores use the zero-shot split.
8 images on each of 2 GPUs, as published.
"""

_base_ = "./data_voc.py"

model = dict(
    method="clip_rc",
    mode="fully",
    encoder=dict(prompts=10),
    loss=dict(mask=100, dice=1, recovery=0),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False),
]
