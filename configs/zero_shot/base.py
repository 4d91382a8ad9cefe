"""Shared by all configurations of the trained methods. Not for direct use.

Every trained tensor has a learning rate of 2e-4 and a weight decay of 0.01, which is what the
published multipliers and exceptions amount to.
"""

custom_imports = dict(imports=["itaclip.research.zero_shot.openmmlab"], allow_failed_imports=False)
default_scope = "mmseg"
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
log_level = "INFO"
log_processor = dict(by_epoch=False)
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
randomness = dict(seed=0)

model = dict(type="ZeroShotSegmentor", model_name="ViT-B/16", pretrained="openai")

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.01))
train_cfg = dict(type="StreamLoop", val_interval=10**9)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="SaveCheckpoint", interval=1000, keep=2),
    sampler_seed=None,
)
custom_hooks = [dict(type="SeedStep")]

train_dataloader = dict(num_workers=4, persistent_workers=True, sampler=dict(type="StreamSampler"))
test_dataloader = dict(batch_size=1, num_workers=2, sampler=dict(type="DefaultSampler", shuffle=False))
test_evaluator = dict(type="ZeroShotIoU")
test_cfg = dict(type="TestLoop")
