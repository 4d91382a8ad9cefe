"""ITACLIP on LoveDA's validation set: 1,669 images, 7 classes.

    python eval.py --config configs/cfg_loveda.py --data-root data/loveDA

Class 0 is the data set's own background; what is not labelled (0 in the masks) is ignored.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_loveda.txt",
    background=True,
    prob_thd=0.3,
)

test_dataloader = dict(
    dataset=dict(
        type="LoveDADataset",
        data_root="data/loveDA",
    )
)
