"""Check definitions, synonyms and class-biased prompts against their class files; without options, all shipped ones.

    python tools/check_texts.py
    python tools/check_texts.py --names my_classes.txt --texts my_definitions.txt --background
    python tools/check_texts.py --names my_classes.txt --texts my_prompts.json --background

Exit status: 0 all files are usable, 1 some are not, 2 bad usage.
"""

from pathlib import Path

from itaclip.common.console import run
from itaclip.research.texts.commands.check_texts import main

if __name__ == "__main__":
    run(lambda: main(Path(__file__).resolve().parents[1]))
