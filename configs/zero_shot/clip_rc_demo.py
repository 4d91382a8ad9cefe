"""CLIP-RC, inductive, on the bundled demo (15 seen, 5 unseen classes) with the bundled CLIP.

    python tools/train.py configs/zero_shot/clip_rc_demo.py
    python tools/test.py configs/zero_shot/clip_rc_demo.py work_dirs/clip_rc_demo/iter_4000.pth

Published: nothing, the demo is this project's own.
Measured here: seen mIoU 68.7, unseen mIoU 66.8, hIoU 67.7, pAcc 89.9 (docs/results/zero_shot_demo.json).
24 minutes on one thread of a busy machine. Higher learning rate and shorter warm-up than published, for a short run.
"""

_base_ = "./data_demo.py"

model = dict(method="clip_rc")
optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(max_iters=4000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=100, by_epoch=False),
    dict(type="PolyLR", eta_min=1e-6, power=0.9, begin=0, end=4000, by_epoch=False),
]
# transductive training starts half-way
default_hooks = dict(checkpoint=dict(interval=200, keep_also=(2000,)))
