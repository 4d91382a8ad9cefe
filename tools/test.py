"""Test a checkpoint of Cascade-CLIP or CLIP-RC: seen, unseen and harmonic mean IoU, pixel accuracy.

    python tools/test.py configs/zero_shot/clip_rc_voc_inductive.py work_dirs/clip_rc_voc_inductive/iter_40000.pth

Reads checkpoints of `tools/train.py` and the published ones.
"""

from itaclip.common.console import run
from itaclip.research.zero_shot.commands.test import main

if __name__ == "__main__":
    run(lambda: main(str(__doc__)))
