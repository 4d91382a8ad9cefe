"""ITACLIP on VDD's test set: 80 images, 7 classes.

    python eval.py --config configs/cfg_vdd.py --data-root data/VDD

Class 0 is the data set's own "other".
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_vdd.txt",
    background=True,
    prob_thd=0.3,
)

test_dataloader = dict(
    dataset=dict(
        type="VDDDataset",
        data_root="data/VDD",
        data_prefix=dict(img_path="img_dir/test", seg_map_path="ann_dir/test"),
    )
)
