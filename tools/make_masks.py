"""Make the region maps of a data set or folder, once, for methods that use them.

    python tools/make_masks.py --images data/street/images --source sam2 --out data/street/regions
    python tools/make_masks.py --config configs/cfg_voc.py --source felzenszwalb --out data/regions --jobs 8

Writes OUT/NAME.npz under the image's own name. The same command continues an interrupted run.
Exit status: 0 all is well, 1 some images failed (each is named), 2 bad usage.
"""

from itaclip.console import run

if __name__ == "__main__":
    # here, so that worker processes load nothing before they have to
    from itaclip.regions.making import main

    run(main)
