"""Create the region maps of a data set or folder in advance, for methods that use them.

    python tools/make_masks.py --images data/street/images --source sam2 --out data/street/regions
    python tools/make_masks.py --config configs/cfg_voc.py --source felzenszwalb --out data/regions --jobs 8

Writes OUT/NAME.npz under the image's own name. Run the same command again to resume an interrupted
run. Exit status: 0 success, 1 some images failed (each is reported), 2 bad usage.
"""

from itaclip.common.console import run

if __name__ == "__main__":
    # imported here so that worker processes load nothing early
    from itaclip.research.preparation.commands.make_masks import main

    run(main)
