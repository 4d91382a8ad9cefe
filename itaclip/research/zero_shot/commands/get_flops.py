"""The command line of `tools/get_flops.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from itaclip.common.console import make_console
from itaclip.common.environment import machine, peak_memory_mib, versions
from itaclip.errors import ItaclipError
from itaclip.files import refuse_arguments, write_json
from itaclip.research.benchmark.machine import timed
from itaclip.research.zero_shot import losses
from itaclip.research.zero_shot.commands.setup import configure, options
from itaclip.research.zero_shot.openmmlab import ZeroShotSegmentor
from itaclip.research.zero_shot.plain import plain_mask_losses


def main(description: str, arguments: Sequence[str] | None = None) -> int:
    """Measure a configuration; returns the exit status.

    Raises:
        ItaclipError: bad input, with its message.
    """
    parser = options(description)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 683), metavar=("HEIGHT", "WIDTH"),
                        help="size in pixels of the resized image for timing inference")  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, help="images per training step")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs, of which the fastest counts")
    parser.add_argument("--baseline", action="store_true",
                        help="also measure with stored attention maps and losses on full masks")  # fmt: skip
    parser.add_argument("--gradient-checkpointing", action="store_true", help="use it in training steps")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(arguments)
    refuse_arguments("out", vars(args))
    config = configure(args)
    if args.gradient_checkpointing:
        config.model.setdefault("encoder", {}).gradient_checkpointing = True
    if min(*args.size, args.batch, args.repeats) < 1:
        raise ItaclipError("--size, --batch and --repeats: expected 1 or more.")
    torch.manual_seed(0)
    model = ZeroShotSegmentor(**{key: value for key, value in config.model.items() if key != "type"})
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, Any] = {
        "config": str(args.config), "precision": model.precision, "size": list(args.size), "batch": args.batch,
        "classes": len(model.split.classes), "gradient_checkpointing": args.gradient_checkpointing,
        **parameters(model), "gflops_window": window_gflops(model), "measured": measure(model, args),
    }  # fmt: skip
    if args.baseline:
        with unoptimised():
            figures["baseline"] = measure(model, args)
    figures |= {"versions": versions(), "machine": machine()}
    show(figures)
    if args.out:
        write_json(args.out, figures)
    return 0


def parameters(model: ZeroShotSegmentor) -> dict[str, int]:
    """Count the parameters, and the trained ones."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {"parameters": sum(n for n, _ in counts), "trained_parameters": sum(n for n, trained in counts if trained)}


def window_gflops(model: ZeroShotSegmentor) -> float:
    """Count the GFLOPs (two per multiply-add) of one window with all classes."""
    pixels = torch.zeros(1, 3, model.image_size, model.image_size, device=model.text_features.device)
    # on every device, the counter sees only the products of explicit attention
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval().grid_logits(pixels)
    return float(counter.get_total_flops()) / 1e9


def measure(model: ZeroShotSegmentor, args: Any) -> dict[str, Any]:
    """Measure seconds per training step and per image, and peak memory.

    On a CPU the peak is that of the process so far, so the leaner version must be measured first.
    """
    device = model.text_features.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step, predict = training_step(model, args.batch, device), prediction(model, args.size, device)
    seconds = {"training_step": timed(step, args.repeats)[0], "image": timed(predict, args.repeats)[0]}
    return {"seconds": seconds, "images_per_second": 1 / seconds["image"], "peak_memory_mib": peak_memory_mib()}


def training_step(model: ZeroShotSegmentor, batch: int, device: torch.device) -> Callable[[], None]:
    """Make a step forward and backward on random images with four classes each, one per quadrant."""
    generator, size = torch.Generator().manual_seed(0), model.image_size
    pixels = torch.randn(batch, 3, size, size, generator=generator).to(device)
    seen = torch.tensor(model.training_split.seen)
    blocks = seen[torch.randint(len(seen), (batch, 2, 2), generator=generator)]
    labels = blocks.repeat_interleave(size // 2, 1).repeat_interleave(size // 2, 2).to(device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]

    def run() -> None:
        model.train().zero_grad(set_to_none=True)
        found = model.loss(pixels, samples)
        sum((value for name, value in found.items() if "loss" in name), torch.zeros((), device=device)).backward()

    return run


def prediction(model: ZeroShotSegmentor, size: Sequence[int], device: torch.device) -> Callable[[], None]:
    """Make a call of sliding-window inference on one random image."""
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).to(device)

    def run() -> None:
        model.eval().predict(pixels)

    return run


@contextmanager
def unoptimised() -> Iterator[None]:
    """Use stored attention maps and losses on full masks, like a straightforward implementation."""
    fast = losses.mask_losses
    losses.mask_losses = plain_mask_losses
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        losses.mask_losses = fast


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    console = make_console()
    millions = [figures[name] / 1e6 for name in ("parameters", "trained_parameters")]
    console.print(f"parameters {millions[0]:.1f} M, trained {millions[1]:.1f} M; "
                  f"one window, {figures['classes']} classes: {figures['gflops_window']:.1f} GFLOPs")  # fmt: skip
    table = Table(title=f"{figures['config']}, {figures['precision']}")
    for column in ("", "training step, s", "image, s", "images/s", "peak memory, MiB"):
        table.add_column(column, justify="right")
    for name in ("measured", "baseline"):
        if name in figures:
            found = figures[name]
            memory = ", ".join(f"{key} {value:.0f}" for key, value in found["peak_memory_mib"].items())
            table.add_row(name, f"{found['seconds']['training_step']:.2f}", f"{found['seconds']['image']:.2f}",
                          f"{found['images_per_second']:.2f}", memory)  # fmt: skip
    console.print(table)
