"""Cascade-CLIP, inductive, on Pascal Context (49 seen, 10 unseen classes).

    tools/dist_train.sh configs/zero_shot/cascade_clip_context_inductive.py 4 --data-root data/VOCdevkit/VOC2010
    python tools/test.py configs/zero_shot/cascade_clip_context_inductive.py \
        work_dirs/cascade_clip_context_inductive/iter_40000.pth --data-root data/VOCdevkit/VOC2010

Published: seen mIoU 55.9 ± 0.5, unseen mIoU 47.2 ± 1.0, hIoU 51.2 (computed), pAcc not published.
Measured here: not yet; OpenAI's weights and the data set were not available.
4 images on each of 4 GPUs, as published.
"""

_base_ = "./data_context.py"

model = dict(
    method="cascade_clip",
    encoder=dict(prompts=35),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False),
]
# transductive training starts from the half-way checkpoint
default_hooks = dict(checkpoint=dict(keep_also=(20000,)))
