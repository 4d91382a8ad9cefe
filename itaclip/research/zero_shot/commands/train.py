"""The command line of `tools/train.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine import dist

from itaclip.common.console import make_console
from itaclip.errors import ItaclipError
from itaclip.research.evaluation.distributed import joined
from itaclip.research.zero_shot.commands.setup import build_checked, configure, options
from itaclip.research.zero_shot.openmmlab import ZeroShotRunner


def main(description: str, arguments: Sequence[str] | None = None) -> int:
    """Train a configuration; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = options(description)
    parser.add_argument("--resume", action="store_true",
                        help="resume from the newest checkpoint in the work folder, if there is one")  # fmt: skip
    parser.add_argument("--load-from", type=Path, help="start from a checkpoint's parameters (transductive runs)")
    parser.add_argument("--gradient-checkpointing", action="store_true",
                        help="recompute activations: saves memory, takes about a third more time")  # fmt: skip
    parser.add_argument("--seed", type=int,
                        help="seed of initial values, data and dropout; replaces the configuration's")  # fmt: skip
    args = parser.parse_args(arguments)
    config = configure(args)
    if args.gradient_checkpointing:
        config.model.setdefault("encoder", {}).gradient_checkpointing = True
    if args.seed is not None:
        config.randomness = dict(seed=args.seed)
    if args.load_from:
        config.load_from = str(args.load_from)
    if config.model.get("mode") == "transductive" and not (config.get("load_from") or args.resume):
        raise ItaclipError("a transductive run starts from an inductive checkpoint; pass it with --load-from.")
    newest = newest_checkpoint(Path(config.work_dir))
    if newest is not None and not args.resume:
        raise ItaclipError(f"{newest}: belongs to an earlier run; pass --resume, or choose another --work-dir.")
    if newest is not None:
        config.load_from, config.resume = str(newest), True
    # no evaluation during training; that is the task of tools/test.py
    for part in ("test_dataloader", "test_evaluator", "test_cfg"):
        config.pop(part, None)

    with joined(args.launcher):
        runner = ZeroShotRunner.from_cfg(config)
        if dist.get_rank() == 0:  # draw the demo's scenes once, not once per process
            build_checked(config.train_dataloader.dataset, runner.segmentor.split.classes)
        dist.barrier()
        runner.train()
    if dist.get_rank() == 0:
        make_console().print(f"written: {newest_checkpoint(Path(config.work_dir))}")
    return 0


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint of the highest iteration; writes are atomic, so it is complete."""
    found = sorted(folder.glob("iter_*.pth"), key=lambda path: int(path.stem.removeprefix("iter_")))
    return found[-1] if found else None
