"""ITACLIP on the bundled demo's things: 48 held-out scenes, 10 classes, everything else is background.

    python eval.py --config configs/cfg_demo_things.py --vocabulary plain

Published: nothing; the demo is this project's own.
Measured here: see docs/classes.md.

A list of things and a background, as in Pascal VOC, shows what the words of the background do. Line 1 of
the class file names all else that the scenes contain.
"""

_base_ = "./cfg_demo.py"

model = dict(
    name_path="{{ fileDirname }}/cls_demo_things.txt",
    auxiliary_text_path=None,
)

test_dataloader = dict(dataset=dict(type="DemoThingsDataset"))
