"""`itaclip export`: the results of whole runs for CVAT, Pascal VOC, YOLO and COCO, an image at a time."""
