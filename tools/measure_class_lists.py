"""Evaluate free-form class lists: the basis for the defaults of `itaclip.Segmenter`.

    python tools/measure_class_lists.py --out docs/results/class_lists.json

Draws new scenes of the demo's world (none of the held-out ones). For each, a list names the classes
of the scene, except one in half of the scenes, and two classes that do not occur; the rest is
background. Every list is combined with several kinds of background, thresholds and temperatures.
The result is the mean IoU over the classes of a list, averaged over scenes. It compares settings in
this miniature world and does not predict scores on photographs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from itaclip import Segmenter
from itaclip.common.console import make_console, progress, run, table_of
from itaclip.common.demo.dataset import class_lines
from itaclip.common.demo.scenes import Scene, draw_scene, random_shape
from itaclip.files import refuse_arguments, write_json
from itaclip.research.evaluation.confusion import class_iou, confusion_matrix

SEED = 777
# logit scale, threshold, closing: the default first, then one change at a time
TRIED = [(40, 0.1, True), *((40, t, True) for t in (0.0, 0.3, 0.4, 0.5)), (60, 0.1, True), (100, 0.1, True),
         (40, 0.1, False)]  # fmt: skip


def class_list(scene: Scene, hide: bool, rng: np.random.Generator) -> list[int]:
    """List the classes: those of the scene (one missing if `hide`) and two others."""
    shown = [c for c in scene.classes() if c]
    rng.shuffle(shown)
    absent = [c for c in range(1, len(class_lines())) if c not in shown]
    return shown[int(hide and len(shown) > 1) :] + [int(c) for c in rng.choice(absent, 2, replace=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--scenes", type=int, default=24)
    args = parser.parse_args()
    refuse_arguments("out", vars(args))
    console, rng = make_console(), np.random.default_rng(SEED)
    lines = class_lines()
    segmenter = Segmenter("demo")
    found: dict[tuple[str, int, float, bool], list[float]] = defaultdict(list)
    with progress(console, args.scenes, "scenes") as advance:
        for number in range(args.scenes):
            scene = draw_scene(random_shape(rng), rng)
            named = class_list(scene, number % 2 == 1, rng)
            truth = np.zeros(scene.labels.shape, np.int64)
            for i, class_id in enumerate(named, 1):
                truth[scene.labels == class_id] = i
            backgrounds: dict[str, bool | list[str]] = {
                "none": False,
                "contrast words": True,
                '"background"': ["background"],
                "all that is not named": [lines[c].split(", ")[0] for c in range(len(lines)) if c not in named],
            }
            for kind, background in backgrounds.items():
                vocabulary = segmenter.prepare([lines[c] for c in named], background)
                for scale, threshold, closing in TRIED if background is not False else TRIED[:1]:
                    result = segmenter(
                        scene.image, vocabulary, logit_scale=scale, prob_thd=threshold, closing=closing
                    )  # fmt: skip
                    labels = result.labels + (background is False)
                    iou = class_iou(confusion_matrix(labels, truth, len(named) + 1))
                    found[kind, scale, threshold, closing].append(float(iou.nanmean()))
            advance(1)
    rows = [
        {"background": kind, "logit_scale": scale, "prob_thd": threshold, "closing": closing,
         "mean_iou": round(float(np.mean(values)), 2), "scenes": len(values)}
        for (kind, scale, threshold, closing), values in found.items()
    ]  # fmt: skip
    write_json(args.out, {"seed": SEED, "model": "demo", "rows": rows})
    console.print(table_of("mean IoU", rows))
    return 0


if __name__ == "__main__":
    run(main)
