"""Convert COCO-Stuff's pixel maps to COCO-Object masks (80 things and background).

    python datasets/cvt_coco_object.py data/coco_stuff164k -o data/coco_object --workers 8

Reads annotations/{train2017,val2017}/*.png with raw values 0..181 and 255; val alone is
enough. Writes *_instanceTrainIds.png: things are 1..80 in COCO's order, everything else is 0.
Without -o, masks go next to the raw maps. Keeps existing masks.
"""

from itaclip.common.console import run
from itaclip.research.preparation.coco import COCO_OBJECT
from itaclip.research.preparation.commands.convert_coco import main

if __name__ == "__main__":
    run(lambda: main(COCO_OBJECT))
