"""Convert masks whose colours or grey values stand for classes to masks of class ids.

    python tools/convert_masks.py data/town/SegmentationClass --colors data/town/labelmap.txt --out data/town/ids
    python tools/convert_masks.py data/lake/masks --colors binary --out data/lake/ids
    python tools/convert_masks.py data/lake/masks --values 0=0 128=1 255=255 --out data/lake/ids

Run the same command again to resume. Exit status: 0 success, 1 some masks failed (a table shows
them), 2 bad usage. See docs/custom-dataset.md.
"""

from itaclip.common.console import run

if __name__ == "__main__":
    # imported here so that worker processes load nothing early
    from itaclip.research.preparation.commands.convert_masks import main

    run(main)
