"""Cascade-CLIP trained on COCO-Stuff (inductive), tested on Pascal Context (59 classes).

    python tools/test.py configs/zero_shot/cascade_clip_coco_to_context.py \
        work_dirs/cascade_clip_coco_inductive/iter_80000.pth --data-root data/VOCdevkit/VOC2010

Published: seen mIoU, unseen mIoU, hIoU and pAcc are not given in the READMEs for this setting.
Measured here: not yet; OpenAI's weights and the data sets were not available.
All classes count as seen, as published, so unseen mIoU and hIoU are NaN.
"""

_base_ = "./data_context.py"

model = dict(method="cascade_clip", mode="fully", unseen=(), encoder=dict(prompts=50))
test_evaluator = dict(unseen=())
