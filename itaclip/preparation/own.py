"""A configuration, class file and text stub for a data set of one's own."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from itaclip.console import make_console
from itaclip.errors import ItaclipError
from itaclip.files import write_text
from itaclip.preparation.inspection import Tree, inspect_tree
from itaclip.preparation.listing import iterate_files, require_folder
from itaclip.preparation.masks import IGNORED
from itaclip.text import ClassNames, read_class_names

PROBLEMS = 1
"""Exit status when images and masks do not fit each other or the classes."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_LABELS_TO_MEND = "Make label maps of one 8-bit channel, or name all classes (--background, --ignore-zero)."
_LOOKED_AT = 1000  # files, to learn the suffix

_CONFIG = '''"""ITACLIP on {name}: {images} images, {classes} classes.

    python eval.py --config configs/cfg_{name}.py
"""

_base_ = "{base}"

model = dict(
    name_path="{{{{ fileDirname }}}}/cls_{name}.txt",
    # Once every line of the file has its text:
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
class Own:
    """A data set of one's own.

    Attributes:
        name: letters, digits and underscores; part of file names.
        images: folder of images, all with one suffix.
        masks: folder of masks, named like the images up to their suffix.
        classes: in the order of the labels.
        background: class 0 is the background.
        ignore_zero: stored label 0 is ignored, and 1..K are the classes.
    """

    name: str
    images: Path
    masks: Path
    classes: ClassNames
    background: bool = False
    ignore_zero: bool = False

    def tree(self) -> Tree:
        """The data set as MMSegmentation will read it.

        Raises:
            ItaclipError: folders missing or equal, or no common suffix.
        """
        require_folder(self.images, "give the folder of the images.")
        require_folder(self.masks, "give the folder of the masks.")
        if self.images.resolve() == self.masks.resolve():
            raise ItaclipError(f"{self.images}: images and masks need folders of their own.")
        image_suffix, mask_suffix = find_suffixes(self.images, self.masks)
        return Tree(self.images, self.masks, None, image_suffix, mask_suffix, self.classes.names, self.ignore_zero,
                    _LABELS_TO_MEND)  # fmt: skip


def find_suffixes(images: Path, masks: Path) -> tuple[str, str]:
    """What follows the common name: ``.jpg`` and ``_mask.png`` of ``a.jpg`` and ``a_mask.png``.

    Raises:
        ItaclipError: no image, images of several suffixes, or no mask for the first image.
    """
    suffixes = {path.suffix for path in islice(iterate_files(images, recursive=True), _LOOKED_AT)}
    suffixes &= set(IMAGE_SUFFIXES)
    if len(suffixes) != 1:
        found = f"images end in {', '.join(sorted(suffixes))}; give all one suffix" if suffixes else "no image in it"
        raise ItaclipError(f"{images}: {found}. Known suffixes are {', '.join(IMAGE_SUFFIXES)}.")
    (image_suffix,) = suffixes
    first = next(iterate_files(images, image_suffix, recursive=True)).relative_to(images)
    folder = masks / first.parent
    endings = {
        path.name[len(first.stem) :]
        for path in iterate_files(require_folder(folder, "masks lie in the same subfolders as images."), ".png")
        if path.name.startswith(first.stem)
    }
    # "1.png" for "1.jpg" is meant rather than "10.png"
    ending = ".png" if ".png" in endings else next(iter(endings)) if len(endings) == 1 else None
    if ending is None:
        raise ItaclipError(
            f"{folder}: {'no mask' if not endings else 'several masks'} for image {first} "
            f"(looked for {first.stem}*.png). Masks are PNG files named like their images."
        )
    return image_suffix, ending


def write_files(own: Own, tree: Tree, count: int, out: Path, base: Path, force: bool) -> list[Path]:
    """Write configuration, class file and text stub below `out`.

    Args:
        own: the data set.
        tree: its layout.
        count: number of images.
        out: gets ``configs/`` and ``llm_texts/``.
        base: the configuration that the new one builds on.
        force: replace files that exist.

    Returns:
        The files written.

    Raises:
        ItaclipError: one of them exists, or cannot be written.
    """
    configs = out / "configs"
    described = own.classes.names[1:] if own.background else own.classes.names
    root, images, masks = _common_root(own.images, own.masks)
    config = _CONFIG.format(
        name=own.name, images=count, classes=len(own.classes), base=Path(os.path.relpath(base, configs)).as_posix(),
        background=own.background, logit_scale=50 if own.background else 40, prob_thd=0.1 if own.background else 0,
        data_root=root, img_path=images, seg_map_path=masks, image_suffix=tree.image_suffix,
        mask_suffix=tree.mask_suffix, ignore_zero=own.ignore_zero,
        class_lines="\n".join(f"                {name!r}," for name in own.classes.names),
    )  # fmt: skip
    contents = {
        configs / f"cls_{own.name}.txt": "".join(f"{', '.join(words)}\n" for words in own.classes.synonyms),
        out / "llm_texts" / f"{own.name}_definitions.txt": "".join(f"{name} >=\n" for name in described),
        configs / f"cfg_{own.name}.py": config,
    }
    for path in contents:
        if path.exists() and not force:
            raise ItaclipError(f"{path}: exists already; choose another --name, or --force to replace it.")
    for path, content in contents.items():
        write_text(path, content)
    return list(contents)


def _common_root(images: Path, masks: Path) -> tuple[str, str, str]:
    """The folder that holds both, and the way from it to each; absolute, so that any working folder will do."""
    images, masks = images.resolve(), masks.resolve()
    root = Path(os.path.commonpath([images, masks]))
    return root.as_posix(), images.relative_to(root).as_posix(), masks.relative_to(root).as_posix()


def main(base: Path, arguments: Sequence[str] | None = None) -> int:
    """The command line of ``tools/new_dataset.py``; returns the exit status.

    Args:
        base: the shared configuration, configs/base.py of the checkout.
        arguments: of the command line; None: the process's.
    """
    options = argparse.ArgumentParser(prog="new_dataset.py", description="Set up a data set of your own.")
    options.add_argument("images", type=Path, help="folder of images")
    options.add_argument("masks", type=Path, help="folder of masks: PNG, named like the images")
    options.add_argument("--classes", type=Path, required=True, help="class file, one class per line")
    options.add_argument("--name", required=True, help="name of the data set: letters, digits, underscores")
    zero = options.add_mutually_exclusive_group()
    zero.add_argument("--background", action="store_true", help="class 0 is the background")
    zero.add_argument("--ignore-zero", action="store_true", help="label 0 is to be ignored; classes are 1..K")
    options.add_argument("--out", type=Path, default=base.parent.parent,
                         help="gets configs/ and llm_texts/ (default: the checkout)")  # fmt: skip
    options.add_argument("--force", action="store_true", help="replace files of that name")
    args = options.parse_args(arguments)
    if not re.fullmatch(r"\w+", args.name, re.ASCII):
        raise ItaclipError(f"--name {args.name!r}: use letters, digits and underscores only.")
    classes = read_class_names(args.classes, args.background)
    if len(classes) > IGNORED - args.ignore_zero:
        raise ItaclipError(
            f"{args.classes}: {len(classes)} classes; masks of 8 bits hold {IGNORED - args.ignore_zero} besides 255."
        )
    own = Own(args.name, args.images, args.masks, classes, args.background, args.ignore_zero)
    console = make_console()
    tree = own.tree()
    seen = inspect_tree(tree)
    if seen.findings:
        seen.findings.show(console, f"{args.images}, {args.masks}: problems; nothing was written")
        return PROBLEMS
    for path in write_files(own, tree, seen.pairs, args.out, base, args.force):
        console.print(f"written: {path}")
    console.print(f"{seen.pairs} images, {len(classes)} classes. Next: python eval.py --config "
                  f"{args.out / 'configs' / f'cfg_{args.name}.py'}; docs/custom-dataset.md tells more.")  # fmt: skip
    return 0
