"""Train Cascade-CLIP or CLIP-RC.

    python tools/train.py configs/zero_shot/clip_rc_voc_inductive.py --data-root data/VOCdevkit/VOC2012
    python tools/train.py configs/zero_shot/clip_rc_demo.py --resume
    tools/dist_train.sh configs/zero_shot/clip_rc_voc_inductive.py 2

A run that was killed at any moment resumes with `--resume` and gives the same losses.
"""

from itaclip.common.console import run
from itaclip.research.zero_shot.commands.train import main

if __name__ == "__main__":
    run(lambda: main(str(__doc__)))
