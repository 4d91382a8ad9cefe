"""ITACLIP on ISPRS Potsdam: 2,016 tiles of 512 pixels, 6 classes.

    python eval.py --config configs/cfg_potsdam.py --data-root data/potsdam

The tiles overlap by 256 pixels, as MMSegmentation's converter makes them.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Its threshold of 0.1 is left out: the best of six classes never scores less.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_potsdam.txt",
    background=False,
    prob_thd=0,
)

test_dataloader = dict(
    dataset=dict(
        type="PotsdamDataset",
        data_root="data/potsdam",
    )
)
