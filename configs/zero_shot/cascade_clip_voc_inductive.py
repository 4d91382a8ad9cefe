"""Cascade-CLIP, inductive, on VOC (15 seen, 5 unseen classes).

    tools/dist_train.sh configs/zero_shot/cascade_clip_voc_inductive.py 4 --data-root data/VOCdevkit/VOC2012
    python tools/test.py configs/zero_shot/cascade_clip_voc_inductive.py \
        work_dirs/cascade_clip_voc_inductive/iter_20000.pth --data-root data/VOCdevkit/VOC2012

Published: seen mIoU 92.5 ± 1.0, unseen mIoU 83.0 ± 1.0, hIoU 87.5 (computed), pAcc not published.
Measured here: not yet; OpenAI's weights and the data set were not available.
4 images on each of 4 GPUs, as published.
"""

_base_ = "./data_voc.py"

model = dict(
    method="cascade_clip",
    encoder=dict(prompts=10),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=20000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=20000, by_epoch=False),
]
# transductive training starts from the half-way checkpoint
default_hooks = dict(checkpoint=dict(keep_also=(10000,)))
