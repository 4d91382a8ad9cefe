"""The command line of `tools/test.py`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine import dist
from rich.table import Table

from itaclip.common.console import make_console
from itaclip.common.environment import machine, peak_memory_mib, versions
from itaclip.files import write_json
from itaclip.research.evaluation.command import SOME_SKIPPED
from itaclip.research.evaluation.distributed import joined
from itaclip.research.preparation.layout import draw_demo
from itaclip.research.zero_shot.checkpoints import read_checkpoint
from itaclip.research.zero_shot.commands.setup import build_checked, configure, options
from itaclip.research.zero_shot.openmmlab import ZeroShotRunner
from itaclip.research.zero_shot.settings import EncoderSettings

_LOG = logging.getLogger(__name__)


def main(description: str, arguments: Sequence[str] | None = None) -> int:
    """Test a checkpoint; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = options(description)
    parser.add_argument("checkpoint", type=Path, help="a published checkpoint, or one of tools/train.py")
    args = parser.parse_args(arguments)
    config = configure(args)
    meta = read_checkpoint(args.checkpoint).content["meta"]
    mode = config.model.get("mode", "inductive")
    if meta.get("mode", mode) != mode and "fully" not in (mode, meta["mode"]):
        _LOG.warning("%s was trained in mode %r, but the configuration has mode %r, which shifts the scores of seen "
                     "classes differently.", args.checkpoint, meta["mode"], mode)  # fmt: skip
    config.load_from = str(args.checkpoint)
    for part in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        config.pop(part, None)

    with joined(args.launcher):
        dataset = config.test_dataloader.dataset
        if dist.get_rank() == 0:
            draw_demo(dataset)
        dist.barrier()
        size = config.model.encoder.get("image_size", EncoderSettings.image_size)
        config.test_dataloader.dataset = dict(type="SkippingDataset", dataset=dataset, image_size=size)
        runner = ZeroShotRunner.from_cfg(config)
        images = len(build_checked(dataset, runner.segmentor.split.classes))
        began = time.perf_counter()
        scores = runner.test()
        seconds = time.perf_counter() - began
    if dist.get_rank():
        return 0
    unreadable = int(scores.pop("unreadable"))
    report = {
        **scores, "images": images, "unreadable": unreadable,
        "seconds_per_image": seconds / images, "peak_memory_mib": peak_memory_mib(),
        "config": str(args.config), "checkpoint": str(args.checkpoint), "mode": mode,
        "trained": {key: meta[key] for key in ("method", "mode", "iter", "seed") if key in meta},
        "versions": versions(), "machine": machine(),
    }  # fmt: skip
    path = Path(config.work_dir) / "metrics.json"
    write_json(path, report)
    table = Table(title=f"{args.config.stem}, in percent")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in scores.values()))
    console = make_console()
    console.print(table)
    console.print(f"{images} images, {seconds / images:.2f} s each; written: {path}")
    if unreadable:
        console.print(f"{unreadable} images could not be read and were skipped, see above")
    return SOME_SKIPPED if unreadable else 0
