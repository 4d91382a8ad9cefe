"""The bundled demo: 24 seen and 5 unseen classes. Not for direct use.

320 training scenes are drawn on first use, with another seed than the 48 held-out ones. The unseen
classes are the last five of the list, as in VOC, and were chosen before any training. They are 255
in the masks under `SegmentationSeen`.

The demo's CLIP has patches of 8 pixels; crops of 10 x 10 patches train twice as fast as its 14 x 14.
"""

_base_ = "./base.py"

unseen = ("flower", "fence", "person", "parasol", "balloon")

model = dict(
    model_name="demo",
    classes="DemoDataset",
    unseen=unseen,
    templates="multi",
    encoder=dict(image_size=80, prompts=8, regions=4),
    windows=dict(stride=66),
)
test_evaluator = dict(unseen=unseen)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(672, 168), ratio_range=(0.75, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(80, 80), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeShortestEdge", scale=168, max_size=10**6),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            type="DemoTrainingDataset",
            data_root="data/demo_training",
            unseen=unseen,
            data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationSeen"),
            ann_file="ImageSets/Segmentation/train.txt",
            pipeline=train_pipeline,
        ),
    ),
)
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        type="DemoDataset",
        data_root="data/demo",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=test_pipeline,
    ),
)
