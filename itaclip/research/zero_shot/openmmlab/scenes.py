"""Training scenes for the bundled demo, with masks that hide the unseen classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmseg.registry import DATASETS
from PIL import Image

from itaclip.common.demo.scenes import draw_scene, random_shape
from itaclip.common.demo.world import CLASSES, KINDS
from itaclip.common.figures import save_mask
from itaclip.common.figures.palette import palette
from itaclip.errors import ItaclipError
from itaclip.files import atomic_folder
from itaclip.research.openmmlab import DemoDataset
from itaclip.research.preparation.masks import IGNORED
from itaclip.research.zero_shot.classes import ClassSplit

SCENES = 320
TRAINING_SEED = 20260408
"""Differs from the seed of the held-out scenes (`itaclip.common.demo.dataset.HELD_OUT_SEED`)."""


@DATASETS.register_module()
class DemoTrainingDataset(DemoDataset):
    """Scenes of the demo's world, drawn on first use.

    ``SegmentationClass`` contains complete masks; in ``SegmentationSeen`` every pixel of an unseen
    class is 255, so that an inductive run cannot see it.

    Args:
        data_root: folder; created if missing.
        unseen: the classes to hide.
        scenes: number of scenes to draw.
        options: arguments of `DemoDataset`.
    """

    def __init__(self, data_root: str, unseen: tuple[str, ...], scenes: int = SCENES, **options: Any) -> None:
        ensure_training_scenes(data_root, unseen, scenes)
        super().__init__(data_root=data_root, **options)


def ensure_training_scenes(root: str | Path, unseen: tuple[str, ...], scenes: int = SCENES) -> Path:
    """Draw the training scenes below `root` if they do not exist yet; the folder is written atomically.

    Raises:
        ItaclipError: `root` contains other files or other scenes, or cannot be written.
    """
    root, wanted = Path(root), f"{scenes} scenes without masks of {', '.join(unseen)}\n"
    note = root / "contents.txt"
    if not note.is_file():
        if root.exists() and any(root.iterdir()):
            raise ItaclipError(f"{root}: exists but contains no training scenes; choose another folder or remove it.")
        _draw_atomically(root, unseen, scenes, wanted)
    if (found := note.read_text()) != wanted:
        raise ItaclipError(f"{root}: contains {found.strip()}, but {wanted.strip()} are needed; remove the folder.")
    return root


def _draw_atomically(root: Path, unseen: tuple[str, ...], scenes: int, note: str) -> None:
    try:
        with atomic_folder(root, "contents.txt") as partial:
            _draw(partial, unseen, scenes)
            (partial / "contents.txt").write_text(note)
    except OSError as error:
        raise ItaclipError(f"{root}: the training scenes cannot be written ({error.strerror or error}).") from error


def _draw(root: Path, unseen: tuple[str, ...], scenes: int) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationSeen", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    hidden = ClassSplit.of([kind.names[0] for kind in KINDS], unseen).unseen
    colors, names = palette(CLASSES), []
    for number in range(scenes):
        rng = np.random.default_rng([TRAINING_SEED, number])
        scene = draw_scene(random_shape(rng), rng)
        names.append(f"scene_{number:04d}")
        Image.fromarray(scene.image).save(root / f"JPEGImages/{names[-1]}.jpg", quality=95, subsampling=0)
        save_mask(scene.labels, colors, root / f"SegmentationClass/{names[-1]}.png")
        seen = np.where(np.isin(scene.labels, hidden), np.uint8(IGNORED), scene.labels)
        save_mask(seen, colors, root / f"SegmentationSeen/{names[-1]}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
