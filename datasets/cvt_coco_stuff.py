"""Convert COCO-Stuff's pixel maps to COCO-Stuff-164k masks (171 classes).

    python datasets/cvt_coco_stuff.py data/coco_stuff164k --workers 8

Reads annotations/{train2017,val2017}/*.png with raw values 0..181 and 255; val alone is
enough. Writes *_labelTrainIds.png: labels 0..170 for the used ids in order; 255 stays 255.
Without -o, masks go next to the raw maps. Keeps existing masks.
"""

from itaclip.common.console import run
from itaclip.research.preparation.coco import COCO_STUFF
from itaclip.research.preparation.commands.convert_coco import main

if __name__ == "__main__":
    run(lambda: main(COCO_STUFF))
