"""The options of `itaclip eval`, apart from what runs them: help and completion need no PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itaclip.common.shipped import complete_configuration, configuration_folder, configurations, summary
from itaclip.core.concepts.options import CONCEPTS
from itaclip.research.evaluation.presets import PRESETS

METHODS = (
    "clip", "maskclip", "sclip", "clearclip", "naclip", "gem", "maskclip_bare", "sclip_bare", "gem_bare", "kk",
    "itaclip", "scclip", "resclip", "resclip_clearclip", "resclip_sclip", "proxyclip", "corrclip",
    "ovstitcher", "radseg", "rfclip", "vip",
)  # fmt: skip
"""The shipped keys of `itaclip.core.methods.METHODS`, which loads PyTorch. A configuration may add others."""

EVERY = (*METHODS, *CONCEPTS)
"""The methods, and the models that are methods of their own."""


def parser() -> argparse.ArgumentParser:
    """Declare the options of `itaclip eval` and `eval.py`."""
    options = argparse.ArgumentParser(prog="itaclip eval", description="Evaluate a configuration on its data set.")
    config = options.add_argument("--config", required=True, help="a configuration file, or the name of a shipped "
                                  "configuration, such as voc")  # fmt: skip
    config.completer = complete_configuration  # type: ignore[attr-defined]
    options.add_argument("--list", action=_List, help="show the shipped configurations and exit")
    method = options.add_argument("--method", help=f"how patch features are computed: {', '.join(EVERY)}")
    method.completer = lambda **_: EVERY  # type: ignore[attr-defined]
    options.add_argument("--preset", choices=PRESETS,
                         help="published: the settings that the method was published with on this data set; "
                              "common: one protocol for all methods; tipsv2: the settings of that encoder")  # fmt: skip
    options.add_argument("--pamr", choices=("on", "off"),
                         help="refinement; overrides the preset and the configuration")  # fmt: skip
    options.add_argument("--vocabulary", default="official", metavar="WORDS",
                         help="official (default): the class file; plain: first words only; synonyms: none of the "
                              "official words; distractors[:N]: N further classes that no image shows. With +auto, "
                              "such as plain+auto, the words of the background are chosen")  # fmt: skip
    add_changes(options)
    options.add_argument("--work-dir", type=Path, help="folder for metrics.json (default: work_dirs/<config>)")
    options.add_argument("--show-dir", type=Path, help="write the image, truth, result and legend of every image here")
    options.add_argument("--out", type=Path, help="write label maps here, as PNG files named after the images")
    options.add_argument("--limit", type=int, metavar="N", help="evaluate only the first N images")
    options.add_argument("--no-text-cache", action="store_true", help="encode all texts again and store none")
    options.add_argument("--no-resume", action="store_true", help="start over instead of continuing an unfinished run")
    add_launcher(options)
    return options


def add_changes(options: argparse.ArgumentParser) -> None:
    """Add the options that change a configuration: `--data-root`, `--weights` and `--cfg-options`."""
    options.add_argument("--data-root", help="folder of the data set; overrides the configuration")
    options.add_argument("--weights", help="CLIP by name, or a weight file; overrides the configuration")
    options.add_argument("--cfg-options", nargs="+", action=_ConfigOptions, default={}, metavar="KEY=VALUE",
                         help="change entries of the configuration, such as model.pamr_steps=0")  # fmt: skip


def add_launcher(options: argparse.ArgumentParser) -> None:
    """Add `--launcher`, which the scripts for several processes set."""
    options.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none",
                         help="how the processes of a distributed run were started")  # fmt: skip


class _List(argparse.Action):
    """Shows the shipped evaluation configurations and exits, as `--help` does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        shown = {name: path for name, path in configurations().items() if "/" not in name}
        width = max(map(len, shown), default=0)
        lines = [f"{name:{width}}  {summary(path)}" for name, path in shown.items()]
        sys.stdout.write("\n".join([*lines, f"Files: {configuration_folder()}"]) + "\n")
        parser.exit()


class _ConfigOptions(argparse.Action):
    """MMEngine's `DictAction`, imported when the option is given; malformed options are usage errors."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest, nargs=self.nargs)(parser, *rest)
        except (ValueError, AssertionError) as error:
            parser.error(f"argument --cfg-options: expected KEY=VALUE, such as model.pamr_steps=0 ({error})")
