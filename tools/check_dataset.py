"""Check that the data set of a configuration is complete and right.

    python tools/check_dataset.py --config configs/cfg_voc.py --data-root data/VOCdevkit/VOC2012

Folders, list file, number of images, sizes and labels; --full decodes every file. Exit
status: 0 all is well, 1 something is wrong (a table tells what to do), 2 bad usage.
"""

from itaclip.console import run

if __name__ == "__main__":
    # here, so that worker processes do not load MMSegmentation
    from itaclip.preparation.check import main

    run(main)
