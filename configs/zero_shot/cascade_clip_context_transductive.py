"""Cascade-CLIP, transductive, on Pascal Context (49 seen, 10 unseen classes).

    tools/dist_train.sh configs/zero_shot/cascade_clip_context_transductive.py 4 --data-root data/VOCdevkit/VOC2010 \
        --load-from work_dirs/cascade_clip_context_inductive/iter_20000.pth
    python tools/test.py configs/zero_shot/cascade_clip_context_transductive.py \
        work_dirs/cascade_clip_context_transductive/iter_20000.pth --data-root data/VOCdevkit/VOC2010

Published: seen mIoU 56.4 ± 0.5, unseen mIoU 55.0 ± 1.0, hIoU 55.7 (computed), pAcc not published.
Measured here: not yet; OpenAI's weights and the data set were not available.
The published run starts from the half-way checkpoint of the inductive one, with its parameters only.
4 images on each of 4 GPUs, as published.
"""

_base_ = "./data_context.py"

model = dict(
    method="cascade_clip",
    mode="transductive",
    encoder=dict(prompts=35),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_iters=20000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=20000, by_epoch=False),
]
