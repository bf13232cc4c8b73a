"""Train several runs at the same time, each in one of a few worker processes.

A small network leaves the cores of a machine waiting for each other. One process a core, each with one thread, trains
several of them in less time than all cores train one after the other. A run is what `train` makes of its
configuration, so an interrupted one is resumed, and a finished one is not trained again.

Where the operating system can, the processes are forks of one that has imported everything: it is started early, so
that it does so while the first process reads the data.
"""

import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cifar10.config.schema import Config
from cifar10.errors import UserError, first_line
from cifar10.system.parent import end_with_parent
from cifar10.system.signals import Stopped, listening, stopped_by
from cifar10.types import Metrics

if TYPE_CHECKING:
    from cifar10.data.image_dataset import ImageDataset

_SENT_SECONDS = 1.0  # between two messages of a worker
_STOPPING_SECONDS = 30.0  # that a worker has for saving its run
_FORKSERVER = "forkserver"
_PRELOADED = ("cifar10.train", "cifar10.laboratory.reporting", "cifar10.laboratory.workers")


@dataclass(frozen=True)
class Trained:
    """Some epochs of a run have ended."""

    name: str
    epochs: list[Metrics]


@dataclass(frozen=True)
class Finished:
    """A run has been trained and tested, now or earlier."""

    name: str


@dataclass(frozen=True)
class Failed:
    """A run has ended with an error."""

    name: str
    reason: str


Event = Trained | Finished | Failed


@dataclass(frozen=True)
class _Arrays:
    """A data set that goes through a pipe: PyTorch would send tensors by files that both processes share."""

    name: str
    class_names: tuple[str, ...]
    splits: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]
    is_mirrorable: bool | None

    @classmethod
    def of(cls, data: "ImageDataset") -> "_Arrays | None":
        """Return `data` for a pipe; None if its images are in a file, which each process opens itself."""
        from torch import Tensor

        splits = []
        for split in data.splits.values():
            if not isinstance(split.images, Tensor):
                return None
            splits.append((split.images.numpy(), split.labels.numpy()))
        return cls(data.name, data.class_names, splits, data.is_mirrorable)

    def data(self) -> "ImageDataset":
        from torch import from_numpy

        from cifar10.data.image_dataset import ImageDataset, Split

        splits = [Split(from_numpy(images), from_numpy(labels)) for images, labels in self.splits]
        return ImageDataset(self.name, self.class_names, *splits, is_mirrorable=self.is_mirrorable)


def prepare_workers() -> None:
    """Begin to import what workers need, in a process of its own; without it, that begins with the first worker."""
    context = _context()
    if isinstance(context, multiprocessing.context.ForkServerContext):
        multiprocessing.forkserver.ensure_running()


def _context() -> multiprocessing.context.BaseContext:
    """Return how processes are started: as forks, or from scratch where that is not possible."""
    if _FORKSERVER not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context(_FORKSERVER)
    context.set_forkserver_preload([*_PRELOADED])
    return context


def train_side_by_side(
    runs: Mapping[str, Config], num_workers: int, log_folder: Path, data: "ImageDataset | None" = None
) -> Generator[Event, None, None]:
    """Train `runs`, and yield what happens; the last event of each run is `Finished` or `Failed`.

    If the iteration ends early, as by a signal, the runs in training are saved first.

    Args:
        runs: Name -> configuration, with `run_name`.
        num_workers: Processes at a time.
        log_folder: Exists; what `train` prints goes into its files `worker-N.log`.
        data: What the `data_loading` of all runs names, if it is loaded already.
    """
    waiting = dict(runs)
    arrays = None if data is None else _Arrays.of(data)
    workers = [_Worker(log_folder / f"worker-{number}.log", arrays) for number in range(min(num_workers, len(runs)))]
    try:
        for worker in workers:
            worker.give(*_taken(waiting, worker, num_workers))
        while busy := {worker.connection: worker for worker in workers if worker.run is not None}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                event = worker.next_event()
                yield event
                if isinstance(event, Trained):
                    continue
                worker.run = None
                if waiting:
                    worker.give(*_taken(waiting, worker, num_workers))
    finally:
        _stop(workers)


def _taken(waiting: dict[str, Config], worker: "_Worker", num_workers: int) -> tuple[str, Config]:
    """Take the next run, or one soon after it whose network `worker` has trained before, and so compiled."""
    soon = list(waiting)[:num_workers]
    name = next((name for name in soon if waiting[name].model.target in worker.networks), soon[0])
    return name, waiting.pop(name)


@dataclass(eq=False)
class _Worker:
    """A process that trains one run at a time; it is started with its first run, and again if it has died."""

    log: Path
    data: "_Arrays | None"
    run: str | None = None
    """Name of the run in training."""
    process: BaseProcess | None = None
    networks: set[str] = field(default_factory=set)
    """Classes of the networks that the process has trained."""
    connection: Connection = field(init=False)

    def give(self, name: str, config: Config) -> None:
        if self.process is None:
            context = _context()
            self.connection, other = context.Pipe()
            self.process = context.Process(target=_work, args=(other, self.log), daemon=True)  # type: ignore[attr-defined]
            self.process.start()
            other.close()
            self.connection.send(self.data)
        self.run = name
        self.networks.add(config.model.target)
        self.connection.send((name, config))

    def next_event(self) -> Event:
        assert self.run is not None
        assert self.process is not None
        try:
            event: Event = self.connection.recv()
            return event
        except EOFError:
            self.process.join()
            code, self.process = self.process.exitcode, None
            self.networks.clear()
            return Failed(self.run, f"its process ended with exit code {code}; see {self.log}")


def _stop(workers: Sequence[_Worker]) -> None:
    """Let workers that train save and end, by the signal that ends this process; end the others."""
    stop = stopped_by()
    for worker in workers:
        if worker.process is None or worker.process.pid is None:
            continue
        if worker.run is not None and worker.process.is_alive():
            os.kill(worker.process.pid, stop.number if stop else signal.SIGTERM)
        worker.connection.close()
    deadline = time.monotonic() + _STOPPING_SECONDS
    for worker in workers:
        if worker.process is not None:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()


def _work(connection: Connection, log: Path) -> None:
    """Train the runs that come through `connection`, until it is closed."""
    end_with_parent(signal.SIGTERM)  # also if the first process has no time to end this one
    with log.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            with listening():
                _train_all(connection)
        except Stopped as stop:
            print(stop, file=sys.stderr)
            os._exit(128 + stop.number)


def _send_epochs(connection: Connection, name: str, epochs: list[Metrics]) -> None:
    connection.send(Trained(name, epochs))


def _train_all(connection: Connection) -> None:
    import torch

    if not torch.cuda.is_available():  # else each step of an optimizer looks for a driver, in 0.15 ms
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from cifar10.laboratory.reporting import SendEpochs
    from cifar10.train import RunOptions, train

    arrays: _Arrays | None = connection.recv()
    data = None if arrays is None else arrays.data()
    while True:
        try:
            name, config = connection.recv()
        except EOFError:
            return
        try:
            sender = SendEpochs(partial(_send_epochs, connection, name), _SENT_SECONDS)
            train(config, resume="auto", callbacks=[sender], data=data, options=RunOptions(is_drawn=False))
            connection.send(Finished(name))
        except (UserError, Exception) as error:
            if stop := stopped_by():
                raise stop from None
            traceback.print_exc()
            connection.send(Failed(name, first_line(error)))
