"""Check that the data set of a configuration is complete and correct.

    python tools/check_dataset.py --config configs/cfg_voc.py --data-root data/VOCdevkit/VOC2012

Checks folders, list file, number of images, sizes and labels; --full decodes every file. Exit
status: 0 no problems, 1 problems (a table shows what to do), 2 bad usage.
"""

from itaclip.common.console import run

if __name__ == "__main__":
    # imported here so that worker processes do not load MMSegmentation
    from itaclip.research.preparation.commands.check_dataset import main

    run(main)
