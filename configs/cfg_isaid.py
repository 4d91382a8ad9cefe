"""ITACLIP on iSAID's validation set: 11,644 tiles of 896 pixels, 16 classes.

    python eval.py --config configs/cfg_isaid.py --data-root data/iSAID

The tiles overlap by 384 pixels, as MMSegmentation's converter makes them.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_isaid.txt",
    background=True,
    prob_thd=0.4,
)

test_dataloader = dict(
    dataset=dict(
        type="iSAIDDataset",
        data_root="data/iSAID",
    )
)
