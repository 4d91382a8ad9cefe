"""VOC without background, 15 seen and 5 unseen classes. Not for direct use.

Training images are VOC 2012 `train` and the rest of the augmented list (`aug.txt`, `SegmentationClassAug`).
"""

_base_ = "./base.py"

unseen = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")

model = dict(classes="PascalVOC20Dataset", unseen=unseen, templates="single")
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

dataset = dict(type="PascalVOC20Dataset", data_root="data/VOCdevkit/VOC2012")
train_dataloader = dict(
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            type="ConcatDataset",
            datasets=[
                dict(
                    **dataset,
                    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
                    ann_file="ImageSets/Segmentation/train.txt",
                    pipeline=train_pipeline,
                ),
                dict(
                    **dataset,
                    data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassAug"),
                    ann_file="ImageSets/Segmentation/aug.txt",
                    pipeline=train_pipeline,
                ),
            ],
        ),
    )
)
test_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
        pipeline=test_pipeline,
    )
)
