"""Training data as a stream: the sample at a position depends only on the seed and the position.

Hence interruptions, the number of loading processes and the number of training processes do not
change the training data.
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
from itaclip.research.zero_shot.openmmlab.unreadable import DatasetWrapper

_ATTEMPTS = 10
"""Images to try for one sample before giving up."""

SampleKey = tuple[int, int, int]
"""Index of an image, and the seed and position that determine its augmentation."""


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler[SampleKey]):
    """An endless stream over reshuffled epochs, distributed to the processes in turn.

    Args:
        dataset: the data set; only its length matters.
        seed: seed of order and augmentations; None means 0.

    Attributes:
        start: number of images that this process has already used.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self._length, self._seed = len(dataset), seed or 0
        self.start = 0

    def __iter__(self) -> Iterator[SampleKey]:
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
    """A data set whose augmentation is seeded by the key of each sample.

    An image that cannot be read is reported and replaced by another one, chosen with the same seed.

    Args:
        dataset: configuration of the data set.
    """

    def __getitem__(self, key: SampleKey) -> Any:
        index, seed, position = key
        with seeded(seed, position):
            for _ in range(_ATTEMPTS):
                try:
                    return self.inner[index]
                except Exception as error:  # decoders and transforms raise all kinds of exceptions
                    path, reason = self.report(index, error, "training")
                    index = int(np.random.randint(len(self.inner)))
        raise ItaclipError(f"{path}: {_ATTEMPTS} consecutive images cannot be read; the last: {reason}.")


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Temporarily seed the global generators of NumPy and Python, which transforms use."""
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
    """MMEngine's loop, resuming the stream at its position instead of replaying the data."""

    def run(self) -> Any:
        """Train to the last iteration.

        Raises:
            ItaclipError: a loader without a `StreamSampler`.
        """
        if not isinstance(self.dataloader.sampler, StreamSampler):
            raise ItaclipError("train_dataloader.sampler: StreamLoop requires type='StreamSampler'.")
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader_iterator = None  # MMEngine's iterator starts at the first image
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
