"""Shared by the scripts that train the demo's weights: windows, the training loop, files."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from itaclip.common.demo.scenes import draw_scene
from itaclip.core.clip.towers import MEAN, STD
from itaclip.files import atomic_path

SHORT_SIDE = 168
"""Of a resized scene in pixels, as in configs/cfg_demo.py."""


def learning_rate(step: int, steps: int, warm_up: int) -> float:
    """Compute the learning rate relative to its peak: linear warm-up, then cosine decay to 2 %."""
    warm = min(1.0, (step + 1) / warm_up)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def normalised(pixels: Tensor) -> Tensor:
    """Normalise RGB in 0..255, ... x 3 x H x W, with CLIP's statistics."""
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() - mean) / std


def random_places(images: int, grid: int, block: int, device: torch.device | None = None) -> Tensor:
    """Choose the indices of a random block x block patches in a grid x grid, for every image: B x patches."""
    top, left = torch.randint(grid - block + 1, (2, images, 1, 1), device=device)
    steps = torch.arange(block, device=device)
    return ((top + steps[:, None]) * grid + left + steps).flatten(1)


def development_window(scene: int, position: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a window of a development scene, side x side x 3 uint8 RGB, and its labels.

    Args:
        scene: number of the scene.
        position: varies the place of the window.
        side: in pixels.
    """
    drawn = draw_scene((288, 368), np.random.default_rng([999, scene]))
    size = (round(368 * SHORT_SIDE / 288), SHORT_SIDE)
    image = cv2.resize(drawn.image, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(drawn.labels, size, interpolation=cv2.INTER_NEAREST)
    left, top = 13 * position % (size[0] - side), 56 if position % 3 else 20
    part = (slice(top, top + side), slice(left, left + side))
    return image[part], labels[part]


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write float16 safetensors, atomically."""
    state = {name: value.detach().half().contiguous().cpu() for name, value in model.state_dict().items()}
    with atomic_path(path) as partial:
        save_file(state, partial, metadata=dict(metadata))


class Training:
    """The loop of a training: iterate over its steps, and call `update` in each.

    Args:
        args: the options of the script: out, resume, steps, seed, report.
        parts: everything with a state, by name, with "optimizer" among it; kept in a checkpoint next to the output.
        clipped: the parameters whose gradient is clipped to a norm of 1.
        warm_up: steps in which the learning rate rises.
    """

    def __init__(
        self, args: argparse.Namespace, parts: Mapping[str, Any], clipped: Iterable[nn.Parameter], warm_up: int
    ) -> None:
        self._args, self._clipped, self._optimizer = args, list(clipped), parts["optimizer"]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: learning_rate(step, args.steps, warm_up)
        )
        self._parts = {**parts, "schedule": self._schedule}
        self._path = args.out.with_suffix(".checkpoint")
        self._step = self._first = self._resume() if args.resume else 1
        self._running, self._began = 0.0, 0.0

    def __iter__(self) -> Iterator[int]:
        self._began = time.time()
        for step in range(self._first, self._args.steps + 1):
            self._step = step
            torch.manual_seed(self._args.seed * 1_000_003 + step)
            yield step

    def update(self, loss: Tensor) -> bool:
        """Take one step against the gradient of a loss; returns whether a report is due."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._clipped, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._running += loss.item()
        return self._step % self._args.report == 0 or self._step == self._args.steps

    def report(self) -> str:
        """Write the checkpoint; returns a line with the step, the mean loss since the last report, and the pace."""
        pace = (time.time() - self._began) / (self._step + 1 - self._first)
        line = f"step {self._step:6d}  loss {self._running / self._args.report:.4f}  {pace:.2f} s per step"
        self._running = 0.0
        with atomic_path(self._path) as partial:
            torch.save({name: part.state_dict() for name, part in self._parts.items()} | {"step": self._step}, partial)
        return line

    def note(self) -> dict[str, object]:
        """Collect the options and the step, for the metadata of the weights."""
        return {**{name: str(value) for name, value in vars(self._args).items()}, "step": self._step}

    def _resume(self) -> int:
        """Load the checkpoint if there is one; return the next step, counted from 1."""
        if not self._path.exists():
            return 1
        stored = torch.load(self._path, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(stored[name])
        return int(stored["step"]) + 1
