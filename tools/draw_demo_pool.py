"""Draw a pool of scenes of the demo's town for training or development.

    python tools/draw_demo_pool.py --out data/demo_pool --scenes 3000

Writes shards of 50 scenes, ``shard_000.npz``: images (50 x H x W x 3 uint8), owner (50 x H x W
uint8, the number of the thing at every pixel), things (JSON: class id and colour word of each)
and night. Existing shards are kept, so several processes can share the work (``--part 0 2`` and
``--part 1 2``) and an interrupted run can resume. The scenes contain none of the held-out data
set, and no held-out colours (`Kind.unseen_color`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from itaclip.common.demo.scenes import draw_scene
from itaclip.files import atomic_path

SEED = 31
PER_SHARD = 50
SHAPES = ((280, 368), (280, 368), (280, 368), (368, 280))


def draw_shard(path: Path, seed: int, number: int) -> None:
    """Draw one shard and write it atomically."""
    scenes = [
        draw_scene(SHAPES[number % len(SHAPES)], np.random.default_rng([seed, number, i]), unseen=False)
        for i in range(PER_SHARD)
    ]
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            images=np.stack([s.image for s in scenes]),
            owner=np.stack([s.owner for s in scenes]),
            things=np.array([json.dumps(s.things) for s in scenes]),
            night=np.array([s.night for s in scenes]),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="index of this part and number of parts")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(args.scenes // PER_SHARD):
        path = args.out / f"shard_{number:03d}.npz"
        if number % args.part[1] == args.part[0] and not path.exists():
            draw_shard(path, args.seed, number)


if __name__ == "__main__":
    main()
