"""Ask LLaMA 3, or any chat model, for a definition of every class.

    python tools/llama3_definition_generation.py --dataset voc21 --out my_texts/voc21_definitions.txt
    python tools/llama3_definition_generation.py --names my_classes.txt --out my_definitions.txt \\
        --base-url http://localhost:11434/v1 --model llama3

Tokens come from the environment: HF_TOKEN for gated models, OPENAI_API_KEY for servers. After an
interruption, run it again: it asks only for missing classes. Exit status: 0 all classes have a
definition, 1 some have none (the file is then not written), 2 bad usage.
"""

from pathlib import Path

from itaclip.common.console import run
from itaclip.research.texts.answers import DEFINITION
from itaclip.research.texts.commands.generate import main

if __name__ == "__main__":
    run(lambda: main(DEFINITION, Path(__file__).resolve().parents[1] / "configs"))
