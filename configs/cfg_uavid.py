"""ITACLIP on UAVid, cut into tiles of 1,280 x 1,080 pixels: 7 classes.

    python eval.py --config configs/cfg_uavid.py --data-root data/UAVid

Moving and static cars are one class, as in SegEarth-OV.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_uavid.txt",
    background=True,
    prob_thd=0.3,
)

test_dataloader = dict(
    dataset=dict(
        type="UAVidDataset",
        data_root="data/UAVid",
        data_prefix=dict(img_path="img_dir/test", seg_map_path="ann_dir/test"),
    )
)
