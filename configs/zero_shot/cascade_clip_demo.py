"""Cascade-CLIP, inductive, on the bundled demo (24 seen, 5 unseen classes) with the bundled CLIP.

    python tools/train.py configs/zero_shot/cascade_clip_demo.py
    python tools/test.py configs/zero_shot/cascade_clip_demo.py work_dirs/cascade_clip_demo/iter_600.pth

Published: nothing; the demo is this project's own.
Measured here: seen mIoU 32.6, unseen mIoU 21.2, hIoU 25.7, pAcc 67.3 (docs/zero-shot.md).
Higher learning rate and shorter warm-up than published, for a short run.
"""

_base_ = "./data_demo.py"

model = dict(method="cascade_clip")
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=600)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=50, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=600, by_epoch=False),
]
# transductive training starts from the half-way checkpoint
default_hooks = dict(checkpoint=dict(interval=100, keep_also=(300,)))
