"""Generate a configuration, class file and text template for a custom data set."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from itaclip.common.console import make_console
from itaclip.core.text import ClassNames, read_class_names
from itaclip.core.text.class_names import is_background
from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.research.preparation.diagnosis import conclude
from itaclip.research.preparation.inspection import Tree, inspect_tree
from itaclip.research.preparation.listing import iterate_files, require_folder
from itaclip.research.preparation.masks import IGNORED

PROBLEMS = 1
"""Exit status when images, masks and classes do not match."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_MASK_REMEDY = (
    "Create label maps with one 8-bit channel, or list all classes (--background, --ignore-zero). For masks of colours "
    "or grey values there is python tools/convert_masks.py MASKS --colors voc|cityscapes|ade20k|binary|FILE --out DIR."
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
    dict(type="LoadAnnotations"),
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
        """The layout of the data set, as MMSegmentation reads it.

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
    """The absolute common parent folder, and the relative path to each, independent of the working folder."""
    images, masks = images.resolve(), masks.resolve()
    root = Path(os.path.commonpath([images, masks]))
    return root.as_posix(), images.relative_to(root).as_posix(), masks.relative_to(root).as_posix()


def main(base: Path, arguments: Sequence[str] | None = None) -> int:
    """The command line of ``tools/new_dataset.py``; returns the exit status.

    Args:
        base: the shared configuration, configs/base.py of the checkout.
        arguments: command-line arguments; None uses those of the process.
    """
    options = argparse.ArgumentParser(prog="new_dataset.py", description="Set up a data set of your own.")
    options.add_argument("images", type=Path, help="folder of images")
    options.add_argument("masks", type=Path, help="folder of masks: PNG, named like the images")
    options.add_argument("--classes", type=Path, required=True, help="class file, one class per line")
    options.add_argument("--name", required=True, help="name of the data set: letters, digits, underscores")
    zero = options.add_mutually_exclusive_group()
    zero.add_argument("--background", action="store_true", help="class 0 is the background")
    zero.add_argument("--ignore-zero", action="store_true", help="ignore label 0; classes are 1..K")
    options.add_argument("--out", type=Path, default=base.parent.parent,
                         help="folder for configs/ and llm_texts/ (default: the checkout)")  # fmt: skip
    options.add_argument("--force", action="store_true", help="replace existing files")
    args = options.parse_args(arguments)
    if not re.fullmatch(r"\w+", args.name, re.ASCII):
        raise ItaclipError(f"--name {args.name!r}: use letters, digits and underscores only.")
    classes = read_class_names(args.classes, args.background)
    if args.ignore_zero and is_background(classes.names[0]):
        raise ItaclipError(
            f"{args.classes}: the first class is the background, but with --ignore-zero label 0 is no class, and the "
            "first one has label 1. Delete its line, or pass --background if label 0 is the background."
        )
    if len(classes) > IGNORED - args.ignore_zero:
        raise ItaclipError(
            f"{args.classes}: {len(classes)} classes; 8-bit masks allow at most {IGNORED - args.ignore_zero}."
        )
    dataset = CustomDataset(args.name, args.images, args.masks, classes, args.background, args.ignore_zero)
    console = make_console()
    tree = dataset.tree()
    inspection = inspect_tree(tree)
    conclude(inspection, tree, args.images)
    if inspection.findings:
        inspection.findings.show(console, f"{args.images}, {args.masks}: problems; no files written")
        return PROBLEMS
    if is_background(classes.names[0]) and not args.background:
        console.print(f"{args.classes}: the first class is a class like any other; pass --background if it stands "
                      "for all that is none of the classes.")  # fmt: skip
    for path in write_files(dataset, tree, inspection.pairs, args.out, base, args.force):
        console.print(f"written: {path}")
    for note in inspection.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"{inspection.pairs} images, {len(classes)} classes. Next: python eval.py --config "
                  f"{args.out / 'configs' / f'cfg_{args.name}.py'}; see docs/custom-dataset.md.")  # fmt: skip
    return 0
