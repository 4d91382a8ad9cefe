"""The bundled demo data set: held-out scenes in the layout of Pascal VOC, drawn on first use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from itaclip.common.demo.scenes import Scene, draw_scene, random_shape
from itaclip.common.demo.world import CLASSES, KINDS
from itaclip.common.figures import save_mask
from itaclip.common.figures.palette import palette
from itaclip.errors import ItaclipError
from itaclip.files import atomic_folder

SCENES = 48
_MARKER = "ImageSets/Segmentation/val.txt"  # written last
# Training and development scenes use other seeds, see tools/draw_demo_pool.py.
HELD_OUT_SEED = 20260407


def class_lines() -> list[str]:
    """Return the lines of the demo's class file."""
    return [", ".join(kind.names) for kind in KINDS]


def held_out_scene(number: int) -> Scene:
    """Draw a scene of the demo data set by its number, from 0."""
    rng = np.random.default_rng([HELD_OUT_SEED, number])
    return draw_scene(random_shape(rng), rng)


def ensure_demo_dataset(root: str | Path, scenes: int = SCENES) -> Path:
    """Draw the demo data set below `root` if it does not exist yet.

    Writes ``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` (paletted class ids) and
    ``ImageSets/Segmentation/val.txt``. The folder is written atomically.

    Returns:
        The root folder.

    Raises:
        ItaclipError: `root` exists with other content, or cannot be written.
    """
    root = Path(root)
    if (root / _MARKER).is_file():
        return root
    if root.exists() and any(root.iterdir()):
        raise ItaclipError(f"{root}: exists but is not a demo data set; choose another folder or remove it.")
    try:
        with atomic_folder(root, _MARKER) as partial:
            _draw_all(partial, scenes)
    except OSError as error:
        raise ItaclipError(f"{root}: the demo data set cannot be written ({error.strerror or error}).") from error
    return root


def _draw_all(root: Path, scenes: int) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    colors = palette(CLASSES)
    names = []
    for number in range(scenes):
        scene = held_out_scene(number)
        name = f"scene_{number:03d}"
        Image.fromarray(scene.image).save(root / f"JPEGImages/{name}.jpg", quality=95, subsampling=0)
        save_mask(scene.labels, colors, root / f"SegmentationClass/{name}.png")
        names.append(name)
    (root / _MARKER).write_text("\n".join(names) + "\n")
