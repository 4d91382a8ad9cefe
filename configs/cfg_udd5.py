"""ITACLIP on UDD5's validation set: 5 classes.

    python eval.py --config configs/cfg_udd5.py --data-root data/UDD5

SegEarth-OV has "other" last; here it is class 0, which changes no score.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_udd5.txt",
    background=True,
    prob_thd=0.4,
)

test_dataloader = dict(
    dataset=dict(
        type="UDD5Dataset",
        data_root="data/UDD5",
    )
)
