"""Generate a configuration, class file and text template for a custom data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from itaclip.core.text import ClassNames
from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.research.preparation.inspection import Tree
from itaclip.research.preparation.listing import iterate_files, require_folder

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_MASK_REMEDY = (
    "Create label maps with one channel (of 16 bits for more than 255 classes), or list all classes (--background, "
    "--ignore-zero). For masks of colours or grey values there is python tools/convert_masks.py MASKS --colors "
    "voc|cityscapes|ade20k|binary|FILE --out DIR."
)
_FILES_EXAMINED = 1000  # to find the suffix

_CONFIG = '''"""ITACLIP on {name}: {images} images, {classes} classes.

    python eval.py --config configs/cfg_{name}.py
"""

_base_ = "{base}"

model = dict(
    name_path="{{{{ fileDirname }}}}/cls_{name}.txt",
    # Uncomment when every line of the file has a text:
    # auxiliary_text_path="{{{{ fileDirname }}}}/../llm_texts/{name}_definitions.txt",
    # def_coefficient=0.15,
    background={background},
    img_eng_coefficient=0.75,
    logit_scale={logit_scale},
    prob_thd={prob_thd},
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 336), keep_ratio=True),
    dict(type="{annotations}"),
    dict(type="PackSegInputs"),
]

test_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_root={data_root!r},
        data_prefix=dict(img_path={img_path!r}, seg_map_path={seg_map_path!r}),
        img_suffix={image_suffix!r},
        seg_map_suffix={mask_suffix!r},
        reduce_zero_label={ignore_zero},
        metainfo=dict(
            classes=[
{class_lines}
            ]
        ),
        pipeline=test_pipeline,
    )
)
'''


@dataclass(frozen=True)
class CustomDataset:
    """A custom data set.

    Attributes:
        name: letters, digits and underscores; part of file names.
        images: folder of images, all with the same suffix.
        masks: folder of masks, named like the images up to the suffix.
        classes: classes in label order.
        background: whether class 0 is the background.
        ignore_zero: whether stored label 0 is ignored and 1..K are the classes.
    """

    name: str
    images: Path
    masks: Path
    classes: ClassNames
    background: bool = False
    ignore_zero: bool = False

    def tree(self) -> Tree:
        """Return the layout of the data set, as MMSegmentation reads it.

        Raises:
            ItaclipError: missing or identical folders, or no common suffix.
        """
        require_folder(self.images, "pass the folder of the images.")
        require_folder(self.masks, "pass the folder of the masks.")
        if self.images.resolve() == self.masks.resolve():
            raise ItaclipError(f"{self.images}: images and masks must be in separate folders.")
        image_suffix, mask_suffix = find_suffixes(self.images, self.masks)
        return Tree(self.images, self.masks, None, image_suffix, mask_suffix, self.classes.names, self.ignore_zero,
                    _MASK_REMEDY)  # fmt: skip


def find_suffixes(images: Path, masks: Path) -> tuple[str, str]:
    """Find the suffixes of images and masks: ``.jpg`` and ``_mask.png`` for ``a.jpg`` and ``a_mask.png``.

    Raises:
        ItaclipError: no images, images with several suffixes, or no mask for the first image.
    """
    suffixes = {path.suffix for path in islice(iterate_files(images, recursive=True), _FILES_EXAMINED)}
    suffixes &= set(IMAGE_SUFFIXES)
    if len(suffixes) != 1:
        several = f"images end in {', '.join(sorted(suffixes))}; all must have the same suffix"
        found = several if suffixes else "contains no image"
        raise ItaclipError(f"{images}: {found}. Supported suffixes: {', '.join(IMAGE_SUFFIXES)}.")
    (image_suffix,) = suffixes
    first = next(iterate_files(images, image_suffix, recursive=True)).relative_to(images)
    folder = masks / first.parent
    endings = {
        path.name[len(first.stem) :]
        for path in iterate_files(require_folder(folder, "masks must be in the same subfolders as images."), ".png")
        if path.name.startswith(first.stem)
    }
    # "1.jpg" belongs to "1.png" rather than "10.png"
    ending = ".png" if ".png" in endings else next(iter(endings)) if len(endings) == 1 else None
    if ending is None:
        raise ItaclipError(
            f"{folder}: {'no mask' if not endings else 'several masks'} for image {first} "
            f"(looked for {first.stem}*.png). Masks must be PNG files named like their images."
        )
    return image_suffix, ending


def write_files(dataset: CustomDataset, tree: Tree, count: int, out: Path, base: Path, force: bool) -> list[Path]:
    """Write configuration, class file and text template below `out`.

    Args:
        dataset: the data set.
        tree: its layout.
        count: number of images.
        out: folder for ``configs/`` and ``llm_texts/``.
        base: the base of the new configuration.
        force: whether to replace existing files.

    Returns:
        The paths of the files.

    Raises:
        ItaclipError: one of them exists, or cannot be written.
    """
    configs = out / "configs"
    described = dataset.classes.names[1:] if dataset.background else dataset.classes.names
    root, images, masks = _common_root(dataset.images, dataset.masks)
    config = _CONFIG.format(
        name=dataset.name, images=count, classes=len(dataset.classes),
        base=Path(os.path.relpath(base, configs)).as_posix(), background=dataset.background,
        logit_scale=50 if dataset.background else 40, prob_thd=0.1 if dataset.background else 0,
        data_root=root, img_path=images, seg_map_path=masks, image_suffix=tree.image_suffix,
        mask_suffix=tree.mask_suffix, ignore_zero=dataset.ignore_zero,
        annotations="ITACLIPLoadAnnotations" if tree.deep else "LoadAnnotations",
        class_lines="\n".join(f"                {name!r}," for name in dataset.classes.names),
    )  # fmt: skip
    contents = {
        configs / f"cls_{dataset.name}.txt": "".join(f"{', '.join(words)}\n" for words in dataset.classes.synonyms),
        out / "llm_texts" / f"{dataset.name}_definitions.txt": "".join(f"{name} >=\n" for name in described),
        configs / f"cfg_{dataset.name}.py": config,
    }
    for path in contents:
        if path.exists() and not force:
            raise ItaclipError(f"{path}: already exists; choose another --name, or pass --force to replace it.")
    for path, content in contents.items():
        write_text(path, content)
    return list(contents)


def _common_root(images: Path, masks: Path) -> tuple[str, str, str]:
    """Find the absolute common parent folder, and the relative path to each, independent of the working folder."""
    images, masks = images.resolve(), masks.resolve()
    root = Path(os.path.commonpath([images, masks]))
    return root.as_posix(), images.relative_to(root).as_posix(), masks.relative_to(root).as_posix()
