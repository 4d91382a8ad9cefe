"""Shared by the scripts that train the demo's weights: a learning-rate schedule, and a checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def learning_rate(step: int, steps: int, warm_up: int) -> float:
    """Learning rate relative to its peak: linear warm-up, then cosine decay to 2 %."""
    warm = min(1.0, (step + 1) / warm_up)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Checkpoint:
    """The training state, in a file next to the output.

    Args:
        out: the output file.
        parts: everything with a state, by name: model, optimizer, schedule, ...
    """

    def __init__(self, out: Path, parts: Mapping[str, Any]) -> None:
        self.path, self._parts = out.with_suffix(".checkpoint"), parts

    def resume(self) -> int:
        """Load the saved state if there is one; return the next step, counted from 1."""
        if not self.path.exists():
            return 1
        stored = torch.load(self.path, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(stored[name])
        return int(stored["step"]) + 1

    def save(self, step: int) -> None:
        """Write the state after a step, atomically."""
        partial = self.path.with_suffix(".partial_checkpoint")
        torch.save({name: part.state_dict() for name, part in self._parts.items()} | {"step": step}, partial)
        os.replace(partial, self.path)
