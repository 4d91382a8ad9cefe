"""Cascade-CLIP, transductive, on VOC (15 seen, 5 unseen classes).

    tools/dist_train.sh configs/zero_shot/cascade_clip_voc_transductive.py 4 --data-root data/VOCdevkit/VOC2012 \
        --load-from work_dirs/cascade_clip_voc_inductive/iter_10000.pth
    python tools/test.py configs/zero_shot/cascade_clip_voc_transductive.py \
        work_dirs/cascade_clip_voc_transductive/iter_10000.pth --data-root data/VOCdevkit/VOC2012

Published: seen mIoU 93.6 ± 0.5, unseen mIoU 93.2 ± 0.5, hIoU 93.4 (computed), pAcc not published.
Measured here: not yet; OpenAI's weights and the data set were not available.
The published run starts from the half-way checkpoint of the inductive one, with its parameters only.
8 images on each of 4 GPUs, as published.
"""

_base_ = "./data_voc.py"

model = dict(
    method="cascade_clip",
    mode="transductive",
    encoder=dict(prompts=10),
)
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=10000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=10000, by_epoch=False),
]
