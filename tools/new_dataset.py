"""Set up a data set of your own: configuration, class file and text template.

    python tools/new_dataset.py data/street/images data/street/masks --classes street.txt --name street

Masks are PNG files of class ids, named like the images. See docs/custom-dataset.md.
"""

from pathlib import Path

from itaclip.common.console import run
from itaclip.research.preparation.commands.new_dataset import main

if __name__ == "__main__":
    run(lambda: main(Path(__file__).resolve().parents[1] / "configs/base.py"))
