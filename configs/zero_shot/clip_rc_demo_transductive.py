"""CLIP-RC, transductive, on the bundled demo (24 seen, 5 unseen classes) with the bundled CLIP.

    python tools/train.py configs/zero_shot/clip_rc_demo_transductive.py \
        --load-from work_dirs/clip_rc_demo/iter_300.pth
    python tools/test.py configs/zero_shot/clip_rc_demo_transductive.py \
        work_dirs/clip_rc_demo_transductive/iter_300.pth

Published: nothing; the demo is this project's own.
Measured here: seen mIoU 66.2, unseen mIoU 25.3, hIoU 36.6, pAcc 85.3 (docs/zero-shot.md).
Starts from the half-way checkpoint of the inductive run and takes half as long, as published.
The masks contain the labels of unseen classes; training uses only their location.
"""

_base_ = "./clip_rc_demo.py"

model = dict(mode="transductive")
train_dataloader = dict(dataset=dict(dataset=dict(data_prefix=dict(seg_map_path="SegmentationClass"))))
train_cfg = dict(max_iters=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=300, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(keep_also=()))
