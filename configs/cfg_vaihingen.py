"""ITACLIP on ISPRS Vaihingen: 398 tiles of 512 pixels, 6 classes.

    python eval.py --config configs/cfg_vaihingen.py --data-root data/vaihingen

The tiles are those of MMSegmentation's converter.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Its threshold of 0.1 is left out: the best of six classes never scores less.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_vaihingen.txt",
    background=False,
    prob_thd=0,
)

test_dataloader = dict(
    dataset=dict(
        type="ISPRSDataset",
        data_root="data/vaihingen",
    )
)
