"""CLIP-RC, transductive, on COCO-Stuff (156 seen, 15 unseen classes).

    tools/dist_train.sh configs/zero_shot/clip_rc_coco_transductive.py 2 --data-root data/coco_stuff164k \
        --load-from work_dirs/clip_rc_coco_inductive/iter_40000.pth
    python tools/test.py configs/zero_shot/clip_rc_coco_transductive.py \
        work_dirs/clip_rc_coco_transductive/iter_40000.pth --data-root data/coco_stuff164k

Published: seen mIoU 42.0, unseen mIoU 60.8, hIoU 49.7, pAcc 69.9.
Measured here: not yet; OpenAI's weights and the data set were not available.
By analogy with VOC, it starts from the half-way checkpoint of the inductive run, with its parameters only.
2 images per GPU, as published; the number of GPUs is not published, and is 2 here.
"""

_base_ = "./data_coco.py"

model = dict(
    method="clip_rc",
    mode="transductive",
    encoder=dict(prompts=100),
    loss=dict(mask=200, dice=3, recovery=50),
)
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=40000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=40000, by_epoch=False),
]
