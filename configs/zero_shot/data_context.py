"""Pascal Context without background, 49 seen and 10 unseen classes. Not for direct use.

The unseen classes are those of Cascade-CLIP's code; papers often use another ten. The published
embeddings use "airplane" for aeroplane.
"""

_base_ = "./base.py"

unseen = ("aeroplane", "bed", "bedclothes", "boat", "bottle", "car", "cloth", "cow", "keyboard", "plate")

model = dict(classes="PascalContext59Dataset", unseen=unseen, templates="multi", words=dict(aeroplane="airplane"))
test_evaluator = dict(unseen=unseen)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeShortestEdge", scale=512, max_size=10**6),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

dataset = dict(
    type="PascalContext59Dataset",
    data_root="data/VOCdevkit/VOC2010",
    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
)
train_dataloader = dict(
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(**dataset, ann_file="ImageSets/SegmentationContext/train.txt", pipeline=train_pipeline),
    )
)
test_dataloader = dict(
    dataset=dict(**dataset, ann_file="ImageSets/SegmentationContext/val.txt", pipeline=test_pipeline)
)
