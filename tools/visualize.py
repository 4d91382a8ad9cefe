"""Create an HTML page with figures and charts from the masks of an evaluation.

    python eval.py --config configs/cfg_voc.py --data-root DATA --out work_dirs/voc/masks
    python tools/visualize.py --config configs/cfg_voc.py --data-root DATA \\
        --masks work_dirs/voc/masks --out work_dirs/voc/page

Then open work_dirs/voc/page/index.html. It shows IoU by class, the confusion matrix, and for every
image the ground truth, prediction and errors, worst images first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from itaclip.common.console import make_console, progress, run
from itaclip.errors import ItaclipError
from itaclip.files import refuse_inputs
from itaclip.research.evaluation.gallery import Gallery, read_mask
from itaclip.research.evaluation.loop import own_name
from itaclip.research.evaluation.setup import build_dataset
from itaclip.research.openmmlab.configuration import load_config
from itaclip.research.openmmlab.loading import image_as_loaded, loading_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="configuration of the data set")
    parser.add_argument("--data-root", help="folder of the data set; replaces the configuration's")
    parser.add_argument("--masks", type=Path, required=True, help="folder written by eval.py --out")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page")
    parser.add_argument("--limit", type=int, help="only the first N images that have a mask")
    args = parser.parse_args()
    dataset = build_dataset(load_config(args.config, args.data_root))
    names = dataset.metainfo["classes"]
    found = {}
    for i in range(len(dataset)):
        name = own_name(dataset.get_data_info(i)["img_path"], dataset)
        if (args.masks / name).with_suffix(".png").is_file():
            found[i] = name
    if not found:
        raise ItaclipError(
            f"{args.masks}: contains no masks for the images of {args.config.name}; write them with eval.py --out."
        )
    chosen = list(found.items())[: args.limit]
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    inputs = [info[key] for info in infos for key in ("img_path", "seg_map_path") if info.get(key)]
    inputs += [(args.masks / name).with_suffix(".png") for name in found.values()]
    refuse_inputs(Gallery.files(args.out, len(chosen)), inputs, "choose another --out")
    gallery = Gallery(args.out, names, dataset.metainfo["palette"])
    console = make_console()
    with progress(console, len(chosen), "drawing") as advance:
        for i, name in chosen:
            sample = dataset[i]["data_samples"]
            predicted = read_mask((args.masks / name).with_suffix(".png"))
            if predicted.max(initial=0) >= len(names):
                raise ItaclipError(f"{args.masks / name}: label {predicted.max()} exceeds the {len(names)} classes.")
            truth = sample.gt_sem_seg.data[0].numpy()
            gallery.add(str(name), image_as_loaded(sample.img_path, loading_of(dataset)), predicted, truth)
            advance(1)
    page = gallery.write(f"{args.config.stem}: {len(chosen)} of {len(dataset)} images")
    console.print(f"written: {page}", markup=False)
    return 0


if __name__ == "__main__":
    run(main)
