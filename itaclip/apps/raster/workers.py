"""Who does the work: this process, or workers on Ray. Tasks are numbers of units and blocks; results are files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch

from itaclip.apps.raster.deciding import Decider
from itaclip.apps.raster.plan import Plan
from itaclip.apps.raster.source import Description, Source
from itaclip.apps.raster.store import CORRECTED, LABELS, SETTLED, Store
from itaclip.core.choices import follow
from itaclip.core.windows import WindowPlan
from itaclip.errors import ItaclipError, install_extra
from itaclip.segmenter import Segmenter
from itaclip.vocabulary import Vocabulary

if TYPE_CHECKING:
    from itaclip.apps.collection.cluster import Allocation

Stage: TypeAlias = Literal["encoding", "deciding", "area rule", "map correction"]

_TRIES = 3  # workers that a task may lose


@dataclass(frozen=True)
class Setup:
    """What a worker works with; can be pickled.

    Attributes:
        load: creates the segmenter; takes `device`.
        fingerprint: expected fingerprint of the weights.
        vocabulary: the classes.
        description: how the raster is read.
        folder: the working folder, which all workers see.
        plan: the division of the raster.
        windows: its windows.
        scores: whether to keep scores.
        choices: what the run chose by measuring.
    """

    load: Callable[..., Segmenter]
    fingerprint: str
    vocabulary: Vocabulary
    description: Description
    folder: Path
    plan: Plan
    windows: WindowPlan
    scores: bool
    choices: dict[str, str]


class Worker:
    """Does tasks with a segmenter, reading the raster and the working folder."""

    def __init__(self, setup: Setup, segmenter: Segmenter, source: Source) -> None:
        self._store = Store(setup.folder, setup.plan, setup.windows)
        vocabulary = setup.vocabulary.to(segmenter.device)
        self._decider = Decider(
            segmenter.pipeline, vocabulary.bank, segmenter.for_vocabulary(vocabulary), source, self._store, setup.plan,
            setup.windows, setup.scores,
        )  # fmt: skip

    def do(self, stage: Stage, number: int, dropped: Sequence[int]) -> None:
        """Do a task and write its result."""
        if stage == "encoding":
            self._decider.encode(number)
        elif stage == "map correction":
            self._store.write_block(CORRECTED, number, self._decider.correct(number))
        else:
            folder = SETTLED if stage == "area rule" else LABELS
            self._store.write_block(folder, number, self._decider.decide(number, dropped))


class Workers(Protocol):
    """Does the tasks of a stage and yields their numbers as they are done."""

    def run(self, stage: Stage, numbers: Iterable[int], dropped: Sequence[int] = ()) -> Iterator[int]: ...


@contextmanager
def here(setup: Setup, segmenter: Segmenter) -> Iterator[Workers]:
    """Use this process as the only worker."""
    with Source(setup.description) as source:
        yield _Here(Worker(setup, segmenter, source))


class _Here:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, stage: Stage, numbers: Iterable[int], dropped: Sequence[int] = ()) -> Iterator[int]:
        for number in numbers:
            self._worker.do(stage, number, dropped)
            yield number


@contextmanager
def on_ray(
    setup: Setup, address: str | None, workers: int | None, threads: int | None, device: str, segmenter: Segmenter
) -> Iterator[Workers]:
    """Workers on this machine or a Ray cluster.

    Raises:
        ItaclipError: Ray is missing, there is no such cluster, or too small a machine.
    """
    if missing := [name for name in ("ray", "pyarrow", "fsspec", "pycocotools") if find_spec(name) is None]:
        raise ItaclipError(f"--workers and --address require {', '.join(missing)}: {install_extra('ray')}.")
    from itaclip.apps.collection.cluster import allocate, cluster, unwrapped

    with cluster(address), unwrapped():
        allocation = allocate(workers, threads, device, segmenter.settings)
        yield _OnRay(setup, allocation)


class _OnRay:
    def __init__(self, setup: Setup, allocation: Allocation) -> None:
        import ray

        self._ray: Any = ray
        self._setup, self._allocation = ray.put(setup), allocation
        self._actors = [self._start() for _ in range(min(allocation.workers, allocation.available))]

    def _start(self) -> Any:
        of = self._allocation
        own = self._ray.remote(num_gpus=1) if of.gpu else self._ray.remote(num_cpus=of.threads)
        return own(_RemoteWorker).remote(self._setup, "cuda" if of.gpu else "cpu", of.threads)

    def run(self, stage: Stage, numbers: Iterable[int], dropped: Sequence[int] = ()) -> Iterator[int]:
        waiting, idle, lost = deque(numbers), list(self._actors), dict[int, int]()
        busy: dict[Any, tuple[Any, int]] = {}
        while waiting or busy:
            while waiting and idle:
                actor, number = idle.pop(), waiting.popleft()
                busy[actor.do.remote(stage, number, list(dropped))] = actor, number
            (done,), _ = self._ray.wait(list(busy), num_returns=1)
            actor, number = busy.pop(done)
            try:
                self._ray.get(done)
            except self._ray.exceptions.RayActorError as error:
                lost[number] = lost.get(number, 0) + 1
                if lost[number] >= _TRIES:
                    raise ItaclipError(
                        f"{_TRIES} workers were lost over the same task ({stage} {number}), the last with: {error}. "
                        "What is done is kept; give the workers more memory, and run the same command again."
                    ) from None
                waiting.appendleft(number)
                self._actors.remove(actor)
                if not self._actors:  # with others left, none waits for a machine that may not come back
                    self._actors.append(self._start())
                    idle.append(self._actors[0])
                continue
            idle.append(actor)
            yield number


class _RemoteWorker:
    """A worker in a process of Ray's."""

    def __init__(self, setup: Setup, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._stack = ExitStack()
        self._error: str | None = None
        try:
            follow(setup.choices)
            segmenter = setup.load(device=device)
            segmenter.settle(setup.vocabulary)
            if segmenter.fingerprint != setup.fingerprint:
                raise ItaclipError("this machine loads different weights; give all machines the same file.")
            if not setup.folder.is_dir():
                raise ItaclipError(f"{setup.folder}: not seen by this machine; put --out where all machines see it.")
            self._worker = Worker(setup, segmenter, self._stack.enter_context(Source(setup.description)))
        except ItaclipError as error:
            self._error = str(error)

    def do(self, stage: Stage, number: int, dropped: Sequence[int]) -> None:
        if self._error is not None:
            raise ItaclipError(self._error)
        self._worker.do(stage, number, dropped)
