"""ITACLIP on OpenEarthMap's validation set without the images of xBD: 9 classes.

    python eval.py --config configs/cfg_openearthmap.py --data-root data/OpenEarthMap

Class 0 is what is not labelled; it counts as a class, as in SegEarth-OV.
Published: nothing for ITACLIP on this data set. Short side, windows, logit scale and threshold are those of
SegEarth-OV's configuration (github.com/likyoo/SegEarth-OV, commit 3e22a969), its further steps are not.
Class words are the data set's names.
Measured here: not yet; OpenAI's weights and the data set were not available.
"""

_base_ = "./base_aerial.py"

model = dict(
    name_path="{{ fileDirname }}/cls_openearthmap.txt",
    background=True,
    prob_thd=0.1,
)

test_dataloader = dict(
    dataset=dict(
        type="OpenEarthMapDataset",
        data_root="data/OpenEarthMap",
    )
)
