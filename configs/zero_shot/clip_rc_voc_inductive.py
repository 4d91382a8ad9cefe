"""CLIP-RC, inductive, on VOC (15 seen, 5 unseen classes).

    tools/dist_train.sh configs/zero_shot/clip_rc_voc_inductive.py 2 --data-root data/VOCdevkit/VOC2012
    python tools/test.py configs/zero_shot/clip_rc_voc_inductive.py \
        work_dirs/clip_rc_voc_inductive/iter_40000.pth --data-root data/VOCdevkit/VOC2012

Published: seen mIoU 92.8, unseen mIoU 84.4, hIoU 88.4, pAcc 95.8.
Measured here: not yet; OpenAI's weights and the data set were not available.
8 images on each of 2 GPUs, as published.
"""

_base_ = "./data_voc.py"

model = dict(
    method="clip_rc",
    encoder=dict(prompts=10),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False),
]
# transductive training starts from the half-way checkpoint
default_hooks = dict(checkpoint=dict(keep_also=(20000,)))
