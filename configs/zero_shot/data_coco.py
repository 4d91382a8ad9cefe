"""COCO-Stuff 164k, 156 seen and 15 unseen classes. Not for direct use."""

_base_ = "./base.py"

unseen = (
    "cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass",
    "playingfield", "river", "road", "tree", "wall-concrete",
)  # fmt: skip

model = dict(classes="COCOStuffDataset", unseen=unseen, templates="multi")
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

dataset = dict(type="COCOStuffDataset", data_root="data/coco_stuff164k")
train_dataloader = dict(
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            **dataset,
            data_prefix=dict(img_path="images/train2017", seg_map_path="annotations/train2017"),
            pipeline=train_pipeline,
        ),
    )
)
test_dataloader = dict(
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="images/val2017", seg_map_path="annotations/val2017"),
        pipeline=test_pipeline,
    )
)
