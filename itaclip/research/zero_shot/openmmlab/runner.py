"""MMEngine's runner with atomic checkpoints and reproducible steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS, RUNNERS
from torch import nn

from itaclip.errors import ItaclipError
from itaclip.research.zero_shot.checkpoints import read_checkpoint, write_checkpoint
from itaclip.research.zero_shot.openmmlab.segmentor import ZeroShotSegmentor

_FORMAT = 1


@RUNNERS.register_module()
class ZeroShotRunner(Runner):
    """A runner that reads and writes this project's checkpoints: plain data, loaded with ``weights_only``."""

    @property
    def segmentor(self) -> ZeroShotSegmentor:
        """The model, without its wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def wrap_model(self, model_wrapper_cfg: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; MMEngine's own wrapper would require a GPU."""
        if self.distributed and not torch.cuda.is_available() and not is_model_wrapper(model):
            return MMDistributedDataParallel(module=model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    def save_checkpoint(self, out_dir: str, filename: str, **_: Any) -> None:
        """Write parameters, optimiser, schedules and iteration atomically, in the first process."""
        if dist.get_rank():
            return
        model = self.segmentor
        meta = {
            "format": _FORMAT, "iter": self.iter + 1, "epoch": 0, "seed": self.seed, "method": model.method.title,
            "mode": model.mode, "classes": list(model.split.classes), "unseen": list(model.split.unseen),
            "config": self.cfg.pretty_text,
        }  # fmt: skip
        content = {
            "meta": meta,
            "state_dict": model.state_dict(),
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [schedule.state_dict() for schedule in self.param_schedulers],
        }
        write_checkpoint(content, Path(out_dir) / filename)

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> dict[str, Any]:
        """Load parameters; for training, the classes must be the same."""
        checkpoint = read_checkpoint(filename)
        unused = self.segmentor.load(checkpoint, same_classes=self._train_loop is not None)
        self._has_loaded = True
        self.logger.info(f"{filename}: {len(checkpoint.state) - len(unused)} tensors loaded"
                         + (f", {len(unused)} unused ones skipped" if unused else ""))  # fmt: skip
        return checkpoint.content

    def resume(self, filename: str, *_: Any, **__: Any) -> None:
        """Resume training from a checkpoint of this project.

        Raises:
            ItaclipError: a checkpoint without training state, or with another seed or mode.
        """
        content = self.load_checkpoint(filename)
        meta = content["meta"]
        if "optimizer" not in content or meta.get("format") != _FORMAT:
            raise ItaclipError(
                f"{filename}: has no training state to resume from; start from its parameters with --load-from."
            )
        for name, own in (("seed", self.seed), ("mode", self.segmentor.mode)):
            if meta[name] != own:
                raise ItaclipError(f"{filename}: was trained with {name} {meta[name]!r}, but this run has {own!r}.")
        self.train_loop._iter = meta["iter"]
        self.optim_wrapper.load_state_dict(content["optimizer"])
        for schedule, state in zip(self.param_schedulers, content["param_schedulers"], strict=True):
            schedule.load_state_dict(state)
        self.logger.info(f"resumed at iteration {meta['iter']}")


@HOOKS.register_module()
class SaveCheckpoint(Hook):
    """Writes ``iter_N.pth`` at intervals, and only then removes old ones.

    Args:
        interval: iterations between checkpoints.
        keep: number of newest checkpoints to keep; 0 keeps all.
        keep_also: iterations whose checkpoints are always kept, such as the half-way one from which
            transductive training starts.

    Raises:
        ItaclipError: an invalid interval or number.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int, keep: int = 0, keep_also: tuple[int, ...] = ()) -> None:
        if interval < 1 or keep < 0:
            raise ItaclipError(f"interval = {interval}, keep = {keep}: expected interval >= 1 and keep >= 0.")
        self._interval, self._keep, self._keep_also = interval, keep, keep_also

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save if it is due, and after the last iteration."""
        done = runner.iter + 1
        if done % self._interval and done != runner.max_iters and done not in self._keep_also:
            return
        folder = Path(runner.work_dir)
        runner.save_checkpoint(str(folder), f"iter_{done}.pth")
        if dist.get_rank():
            return
        found = sorted(int(path.stem.removeprefix("iter_")) for path in folder.glob("iter_*.pth"))
        passing = [n for n in found if n not in self._keep_also]
        for n in passing[: -self._keep] if self._keep else []:
            (folder / f"iter_{n}.pth").unlink(missing_ok=True)


@HOOKS.register_module()
class SeedStep(Hook):
    """Seeds dropout with the run's seed, the iteration and the rank, so that every step is reproducible."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed PyTorch's generators."""
        parts = (runner.seed or 0, runner.iter, dist.get_rank())
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
