"""Record the demo's scores and the README's figure.

    python tools/record_demo.py

Evaluates configs/cfg_demo.py in full, with ITACLIP's parts switched off, and with the words of every
class (`Kind.names`) replaced by words that occur in no caption (`Kind.held_out`). Also queries
coloured things by name ("red car"), in training colours and in held-out ones. Writes
docs/results/demo.json and docs/images/demo.png; tools/make_record.py puts the scores into the pages.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from itaclip import Segmenter
from itaclip.common.console import make_console, run
from itaclip.common.demo.dataset import SCENES, ensure_demo_dataset, held_out_scene
from itaclip.common.demo.scenes import Scene
from itaclip.common.demo.world import KINDS
from itaclip.common.figures import result_figure
from itaclip.files import atomic_path, write_json
from itaclip.research.evaluation.command import main as evaluate

ROOT = Path(__file__).parent.parent
_BARE = ["model.img_engineering=False", "model.pamr_steps=0", "model.auxiliary_text_path=None"]
# From CLIP's own last block to all of ITACLIP; windows, class file and thresholds are the same.
RUNS: dict[str, list[str]] = {
    "clip": ["model.method=clip", *_BARE],
    "attention": _BARE,
    "without_pamr": ["model.pamr_steps=0"],
    "itaclip": [],
}
SHOWN = tuple(range(0, SCENES, 8))  # every eighth scene
PICTURE_HEIGHT = 176  # pixels of a scene in the README's picture
VISIBLE = 0.012  # minimum share of the image that a queried coloured thing covers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only the first N scenes, as a trial; records nothing")
    args = parser.parse_args()
    data = ensure_demo_dataset("data/demo")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        runs = RUNS | {"held_out_words": _held_out_words(Path(folder))}
        for name, options in runs.items():
            arguments = ["--config", str(ROOT / "configs/cfg_demo.py"), "--data-root", str(data),
                         "--work-dir", f"{folder}/{name}", "--out", str(masks / name)]  # fmt: skip
            arguments += ["--limit", str(args.limit)] if args.limit else []
            evaluate(arguments + (["--cfg-options", *options] if options else []))
            metrics = json.loads(Path(f"{folder}/{name}/metrics.json").read_text())
            kept = ("mIoU", "mAcc", "aAcc", "images", "seconds_per_image", "peak_memory_mib", "versions", "machine")
            results[name] = {key: metrics[key] for key in kept}
            results[name]["IoU"] = {word: values["IoU"] for word, values in metrics["per_class"].items()}
        colors = coloured_things(args.limit or SCENES)
        make_console().print(colors)
        if args.limit:
            return 0
        picture = picture_of(data, masks)
    write_json(ROOT / "docs/results/demo.json", {**results, "coloured_things": colors})
    with atomic_path(ROOT / "docs/images/demo.png") as partial:
        picture.quantize(255, dither=Image.Dither.NONE).save(partial, optimize=True)
    make_console().print("python tools/make_record.py puts the scores into the pages")
    return 0


def _held_out_words(folder: Path) -> list[str]:
    """Return options that replace the words of the class file with the held-out ones and keep the definitions."""
    words, texts = folder / "held_out.txt", folder / "held_out_definitions.txt"
    words.write_text("\n".join(", ".join(kind.held_out) for kind in KINDS) + "\n")
    definitions = (ROOT / "llm_texts/demo_definitions.txt").read_text().splitlines()
    by_name = dict(line.split(" >=") for line in definitions)
    texts.write_text("".join(f"{k.held_out[0]} >={by_name[k.names[0]]}\n" for k in KINDS if k.names[0] in by_name))
    return [f"model.name_path={words}", f"model.auxiliary_text_path={texts}"]


def coloured_things(scenes: int) -> dict[str, dict[str, float]]:
    """Count the coloured things that get the label of their colour among "red car", "blue car" and so on.

    A thing counts as right if that label is the most frequent one among its pixels.
    """
    segmenter = Segmenter("demo", pamr_steps=0)
    found: dict[str, list[bool]] = {"colours seen in training with the class": [], "held-out colours": []}
    for number in range(scenes):
        scene = held_out_scene(number)
        for class_id in {c for c, word in scene.things if word}:
            asked = _visible(scene, class_id)
            if not asked:
                continue
            kind = KINDS[class_id]
            vocabulary = segmenter.prepare([f"{color} {kind.names[0]}" for color in kind.colors], False)
            labels = segmenter(scene.image, vocabulary).labels
            for thing, word in asked:
                votes = np.bincount(labels[scene.owner == thing], minlength=len(kind.colors))
                key = list(found)[int(word == kind.unseen_color)]
                found[key].append(kind.colors[int(votes.argmax())] == word)
    return {key: {"things": len(v), "right": round(float(np.mean(v)), 4) if v else 0.0} for key, v in found.items()}


def _visible(scene: Scene, class_id: int) -> list[tuple[int, str]]:
    """Find number and colour of the clearly visible things of a class."""
    shares = np.bincount(scene.owner.ravel(), minlength=len(scene.things)) / scene.owner.size
    return [(i, w) for i, (c, w) in enumerate(scene.things) if c == class_id and w and shares[i] >= VISIBLE]


def picture_of(data: Path, masks: Path) -> Image.Image:
    """Stack the shown scenes vertically: image, ground truth, CLIP, ITACLIP, legend."""
    names = [kind.names[0] for kind in KINDS]
    rows = []
    for number in SHOWN:
        stem = f"scene_{number:03d}"
        with Image.open(data / f"JPEGImages/{stem}.jpg") as picture:
            size = (round(picture.width * PICTURE_HEIGHT / picture.height), PICTURE_HEIGHT)
            image = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
        truth, plain, ours = (
            np.asarray(Image.open(folder / f"{stem}.png").resize(size, Image.Resampling.NEAREST))
            for folder in (data / "SegmentationClass", masks / "clip", masks / "itaclip")
        )
        rows.append(result_figure(image, ours, names, truth, compared={"CLIP": plain}))
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, sum(row.height for row in rows) + 4 * (len(rows) - 1)), (255, 255, 255))
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + 4
    return canvas


if __name__ == "__main__":
    run(main)
