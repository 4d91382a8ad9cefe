"""ITACLIP: training-free open-vocabulary semantic segmentation with CLIP."""
