"""Shared by all configurations: registration, evaluator, loader. Not for direct use."""

custom_imports = dict(imports=["itaclip.research.openmmlab"], allow_failed_imports=False)
default_scope = "mmseg"
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend="nccl"))
log_level = "INFO"
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])

model = dict(
    type="ITACLIPSegmentor",
    model_name="ViT-B/16",
    slide_crop=224,
    slide_stride=28,
    pamr_steps=10,
    pamr_stride=(8, 16),
)

test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_cfg = dict(type="TestLoop")
