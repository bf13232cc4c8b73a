"""Training runs in processes of their own, and what they leave: whether it is what an uninterrupted run leaves.

A fresh process needs ten seconds of a core before its first step. Most faults do not concern them, so most processes
here are forks of one that has imported the program, and nothing else.
"""

import csv
import functools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cifar10.files import TEMPORARY
from cifar10.runs.checkpoint_names import LAST
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.folder import FIGURES, HISTORY, SCORES

COMMANDS = Path(__file__).resolve().parents[2] / "commands.py"
MOST_SECONDS = 300
"""After which a process counts as one that hangs."""

_SMALL = (
    "experiment=demo",
    "data_loading.train_size=100",
    "data_loading.validation_size=20",
    "data_loading.test_size=20",
    "training.batch_size=20",
    "training.monitor=null",  # the last weights are the best: what is compared has been through every step
    "training.save_every_seconds=0.05",
    "training.chunk_seconds=0.001",
    "training.threads=1",
    "tracking=none",
)
RECIPES = {
    "AdamW, dropout": (
        *_SMALL,
        "data_loading.image_size=16",
        "model.width=4",
        "model.dropout=0.3",
        "augmentation=strong",
        "training.epochs=60",
    ),
    "Muon, resizing, hard-example mining": (
        *_SMALL,
        "model=speed",
        "model.widths=[4,4,4]",
        "optimizer=muon",
        "optimizer.lr=0.24",
        "schedule=linear",
        "selection=hardest",
        "selection.widths=[4,4,4]",
        "training.epochs=25",
        "training.resizing=[{until:0.5,scale:0.75}]",
    ),
    "SGD, averaged weights": (
        *_SMALL,
        "data_loading.image_size=16",
        "model=resnet18",
        "model.width=4",
        "optimizer=sgd",
        "schedule=cosine",
        "training.ema_decay=0.9",
        "training.epochs=15",
    ),
}
"""Settings of runs with some seconds of training on one thread, by what is special about them."""

_IMPORTED = ("commands", "cifar10.train", "torchvision.ops", "matplotlib.pyplot", "fire", "hydra")
_OF_NO_OTHER_RUN = ("wall_seconds", "cpu_seconds", "several_origins", "git_commit", "git_dirty", "code_digest")
_LEFTOVER = TEMPORARY.format(name=".+")


Prepare = Callable[[], None]
"""Called in a process before the program; a function of a module, or a partial of one."""


def leave_as_it_is() -> None:
    """Leave the process as it is."""


class Running(Protocol):
    """A process that was started, fresh or forked."""

    pid: int
    log: Path
    """What it prints to stdout and stderr."""

    def exit_code(self) -> int | None:
        """Return the exit code, minus the number of the signal that ended it, or None while it runs."""


@dataclass
class Ended:
    """A process that has ended."""

    exit_code: int
    text: str
    """Of stdout and stderr."""

    def problem(self, *allowed: int) -> str:
        """Return what is wrong with the end, if anything: another exit code, a traceback."""
        if self.exit_code not in allowed:
            return f"exit code {self.exit_code}: {self.text[-400:]}"
        return f"a traceback: {self.text[-400:]}" if "Traceback" in self.text else ""

    @property
    def errors(self) -> list[str]:
        """The lines that report an error."""
        return [line for line in self.text.splitlines() if line.startswith(("error:", "training stopped;"))]


class FreshProcess:
    """The program as a shell starts it."""

    def __init__(self, words: tuple[str, ...], folder: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(COMMANDS), *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                process_group=0,
            )
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()


class ForkedProcess:
    """The same, from the moment when its imports are done.

    Args:
        words: Command and arguments.
        folder: The working folder.
        log: Gets what is printed.
        prepare: Makes the faults that only the process itself can make.
    """

    def __init__(self, words: tuple[str, ...], folder: Path, log: Path, prepare: Prepare = leave_as_it_is) -> None:
        self.log = log
        log.write_bytes(b"")
        self._process = _context().Process(target=_run_program, args=(words, folder, log, prepare))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        code: int | None = self._process.exitcode
        return code


@functools.cache
def _context() -> Any:
    """Return a context whose processes are forks of one with the program's modules."""
    os.environ["OMP_NUM_THREADS"] = "1"
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(COMMANDS.parent)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, __name__])
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def _run_program(words: tuple[str, ...], folder: Path, log: Path, prepare: Prepare) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(COMMANDS), *words]
    prepare()
    import commands
    from cifar10.cli.command_line import main

    sys.exit(main(commands.COMMANDS, "", words))


def wait_for_end(process: Running, seconds: float = MOST_SECONDS) -> Ended:
    """Return how the process ends; kill it if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while (code := process.exit_code()) is None:
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            return Ended(-signal.SIGKILL, f"did not end within {seconds:.0f} s: {process.log.read_text()}")
        time.sleep(0.01)
    return Ended(code, process.log.read_text(errors="replace"))


def has_finished(process: Running) -> bool:
    """Return whether the process has ended before a fault could hit it.

    Raises:
        RuntimeError: It has failed without one.
    """
    if code := process.exit_code():
        raise RuntimeError(f"exit code {code} without a fault: {process.log.read_text(errors='replace')[-1000:]}")
    return code == 0


def reaches(process: Running, is_there: Callable[[], bool], every_seconds: float = 0.002) -> bool:
    """Wait until a condition holds; return False if the process ends before."""
    while not is_there():
        if process.exit_code() is not None:
            return False
        time.sleep(every_seconds)
    return True


def run_to_end(words: tuple[str, ...], folder: Path, prepare: Prepare = leave_as_it_is) -> Ended:
    """Run the program in a forked process, and return how it ended."""
    return wait_for_end(ForkedProcess(words, folder, folder / "log", prepare))


def results_of(run: Path) -> dict[str, Any]:
    """Return everything about a finished run that a repetition must reproduce in every bit."""
    scores = json.loads((run / SCORES).read_text())
    with (run / HISTORY).open() as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    last = load_checkpoint(run / LAST).weights_digest
    return {**{key: scores[key] for key in scores if key not in _OF_NO_OTHER_RUN}, "history": history, "last": last}


@functools.cache
def uninterrupted(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return the results of a run with these settings that nothing disturbs; made once."""
    with tempfile.TemporaryDirectory(prefix="uninterrupted-", ignore_cleanup_errors=True) as name:
        ended = run_to_end(("train", *settings, "run_name=whole"), Path(name))
        if problem := ended.problem(0):
            raise RuntimeError(problem)
        return results_of(Path(name, "models/whole"))


def difference(run: Path, settings: tuple[str, ...]) -> str:
    """Return in what a finished run differs from an uninterrupted one, or ""."""
    other = different_results(results_of(run), uninterrupted(settings))
    return other and f"differs from an uninterrupted run: {other}"


def different_results(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return the names of the results that differ, or ""."""
    return ", ".join(key for key in sorted({*expected, *found}) if expected.get(key) != found.get(key))


def unfinished_files(run: Path) -> list[str]:
    """Return the names of files in a run folder that a process has begun to write."""
    return [name for name in os.listdir(run) if re.fullmatch(_LEFTOVER, name)] if run.is_dir() else []


def finished_problem(run: Path, settings: tuple[str, ...], ended: Ended) -> str:
    """Return what is wrong after a run has been finished: exit code, files or results."""
    if problem := ended.problem(0):
        return problem
    if missing := [name for name in (*FIGURES, SCORES, HISTORY) if not (run / name).is_file()]:
        return f"{', '.join(missing)} missing"
    if left := unfinished_files(run):
        return f"{', '.join(left)} left behind"
    return difference(run, settings)
