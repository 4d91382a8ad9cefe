"""ITACLIP on ISPRS Potsdam: 2,016 tiles of 512 pixels, 6 classes.

    python eval.py --config configs/cfg_potsdam.py --data-root data/potsdam

The tiles overlap by 256 pixels, as MMSegmentation's converter makes them.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Its threshold of 0.1 is left out: the best of six classes never scores less.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base.py"

model = dict(
    name_path="{{ fileDirname }}/cls_potsdam.txt",
    background=False,
    slide_stride=112,
    pamr_steps=0,
    logit_scale=50,
    prob_thd=0,
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 448), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="PotsdamDataset",
        data_root="data/potsdam",
        data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"),
        pipeline=test_pipeline,
    )
)
