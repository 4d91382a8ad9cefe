"""Training data as a stream: what comes at a position depends on the seed and the position alone.

So neither a kill, nor another number of loading processes, nor another division among
training processes changes what is trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine import dist
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import DATA_SAMPLERS, DATASETS, LOOPS
from torch.utils.data import Sampler

from itaclip.errors import ItaclipError
from itaclip.zero_shot.openmmlab.unreadable import DatasetWrapper

_ATTEMPTS = 10
"""Images tried for one ticket before a run gives up."""

Ticket = tuple[int, int, int]
"""Index of an image, and seed and position that its augmentation is drawn from."""


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler[Ticket]):
    """An endless stream over reshuffled epochs, dealt to processes in turn.

    Args:
        dataset: what is sampled; only its length matters.
        seed: of order and augmentations; None is 0.

    Attributes:
        start: how many images this process has had already.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self._length, self._seed = len(dataset), seed or 0
        self.start = 0

    def __iter__(self) -> Iterator[Ticket]:
        rank, world = dist.get_rank(), dist.get_world_size()
        epoch, order = -1, np.empty(0, dtype=np.int64)
        position = self.start * world + rank
        while True:
            if position // self._length != epoch:
                epoch = position // self._length
                order = np.random.default_rng([self._seed, epoch]).permutation(self._length)
            yield int(order[position % self._length]), self._seed, position
            position += world

    def __len__(self) -> int:
        return self._length


@DATASETS.register_module()
class ReplayableDataset(DatasetWrapper):
    """A data set whose augmentation is drawn from the ticket that asks for an image.

    An image that cannot be read is reported and another one, drawn likewise, takes its place.

    Args:
        dataset: configuration of the data set.
    """

    def __getitem__(self, ticket: Ticket) -> Any:
        index, seed, position = ticket
        with seeded(seed, position):
            for _ in range(_ATTEMPTS):
                try:
                    return self.inner[index]
                except Exception as error:  # decoders and transforms raise whatever they like
                    path, reason = self.report(index, error, "training")
                    index = int(np.random.randint(len(self.inner)))
        raise ItaclipError(f"{path}: {_ATTEMPTS} images one after the other cannot be read; the last: {reason}.")


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """NumPy's and Python's global generators, which transforms draw from, seeded for a while."""
    before = random.getstate(), np.random.get_state()
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@LOOPS.register_module()
class StreamLoop(IterBasedTrainLoop):
    """MMEngine's loop, which goes on where a stream stood instead of replaying its data."""

    def run(self) -> Any:
        """Train to the last iteration.

        Raises:
            ItaclipError: a loader without a `StreamSampler`.
        """
        if not isinstance(self.dataloader.sampler, StreamSampler):
            raise ItaclipError("train_dataloader.sampler: StreamLoop needs type='StreamSampler'.")
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader_iterator = None  # MMEngine's, which began at the first image
        self.dataloader.sampler.start = self._iter * self.dataloader.batch_size
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model
