"""Measure parameters, FLOPs, images per second, training-step time and peak memory of a trained method.

    python tools/get_flops.py configs/zero_shot/clip_rc_voc_inductive.py --weights vit-b-16.pt --baseline

The weights may be random ones of the right size (``python tests/make_weights.py vit-b-16 F``).
`--baseline` also measures a straightforward implementation in the same run, with stored attention
maps and losses on full masks.
"""

from itaclip.common.console import run
from itaclip.research.zero_shot.commands.get_flops import main

if __name__ == "__main__":
    run(lambda: main(str(__doc__)))
