"""Kill a training while it writes a file: each file under its own name is whole, and nothing unfinished stays."""

import csv
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import yaml

from cifar10.errors import UserError
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.folder import CONFIG, HISTORY, SCORES, claim_existing
from cifar10.runs.record import RECORD
from tests.faults.experiment import Experiment, Trial
from tests.faults.training_process import (
    RECIPES,
    ForkedProcess,
    Prepare,
    finished_problem,
    has_finished,
    leave_as_it_is,
    reaches,
    unfinished_files,
    wait_for_end,
)

_SETTINGS = (*RECIPES["AdamW, dropout"], "model.width=32", "training.epochs=50", "evaluation.tta=none")
_SAVED_AT_EACH_STEP = (*_SETTINGS, "training.save_every_seconds=1e-9", "training.chunk_seconds=0")
_KILLS_OF_A_RUN = 25  # after which it is finished and compared


def _killed(number: int, folder: Path) -> Iterator[Trial]:
    generator, kills, run = random.Random(number), 0, folder / "models/run0"
    for index in range(number):
        fault, left = _kill_while_it_saves(run, _has_unfinished_files, generator)
        while not left:  # killed between two files, or not at all
            if (run / SCORES).exists():
                kills = 0
                shutil.rmtree(run)
            fault, left = _kill_while_it_saves(run, _has_unfinished_files, generator)
        kills += 1
        problem = _unreadable(run) or _left_behind(run)
        if not problem and (kills == _KILLS_OF_A_RUN or index == number - 1):
            ended = wait_for_end(ForkedProcess(_words(run), folder, folder / "log"))
            problem = finished_problem(run, _SETTINGS, ended)
            fault, kills = f"{fault} (then the run was finished, after {kills} kills)", 0
            run = run.with_name(f"run{index + 1}")
        yield Trial(f"{fault}, unfinished: {', '.join(left)}", problem)


def _killed_without_temporary_files(number: int, folder: Path) -> Iterator[Trial]:
    generator, run = random.Random(number), folder / "models/run"
    sizes = {0}

    def is_short(run: Path) -> bool:
        sizes.add(size := (run / LAST).stat().st_size)
        return size < max(sizes)

    for index in range(number):
        run = run.with_name(f"run{index}")
        fault, _ = _kill_while_it_saves(run, is_short, generator, _write_in_place)
        yield Trial(fault, _unreadable(run))


def _has_unfinished_files(run: Path) -> bool:
    return bool(unfinished_files(run))


def _words(run: Path) -> tuple[str, ...]:
    return ("train", *_SAVED_AT_EACH_STEP, f"run_name={run.name}", "--resume=auto")


def _kill_while_it_saves(
    run: Path, is_writing: Callable[[Path], bool], generator: random.Random, prepare: Prepare = leave_as_it_is
) -> tuple[str, list[str]]:
    """Kill the run when it seems to write; return the fault, and the unfinished files that it leaves."""
    folder = run.parent.parent
    process = ForkedProcess(_words(run), folder, folder / "log", prepare)
    reaches(process, lambda: "epoch " in process.log.read_text())
    time.sleep(generator.uniform(0, 0.1))
    seconds = generator.uniform(0, 0.003)
    reaches(process, lambda: is_writing(run), every_seconds=0.0)
    time.sleep(seconds)
    if not has_finished(process):
        os.kill(process.pid, signal.SIGKILL)
    ended = wait_for_end(process)
    return f"SIGKILL {seconds * 1000:.1f} ms after a file was begun", unfinished_files(run) if ended.exit_code else []


def _unreadable(run: Path) -> str:
    """Return which files under their own names are not whole."""
    readers: dict[str, Callable[[Path], object]] = {
        LAST: load_checkpoint,
        BEST: load_checkpoint,
        CONFIG: lambda path: yaml.safe_load(path.read_text())["training"],
        HISTORY: lambda path: [float(row["lr"]) for row in csv.DictReader(path.read_text().splitlines())],
        SCORES: lambda path: json.loads(path.read_text()),
        RECORD: lambda path: json.loads(path.read_text()),
    }
    for name, read in readers.items():
        try:
            if (run / name).exists():
                read(run / name)
        except (UserError, ValueError, TypeError, KeyError) as error:
            return f"{name} cannot be read: {error}"
    return "" if (run / LAST).exists() else f"{LAST} is missing"


def _left_behind(run: Path) -> str:
    """Return the files that remain unfinished when the folder has a new owner."""
    claim_existing(run).release()
    left = unfinished_files(run)
    return f"{', '.join(left)} left behind" if left else ""


def _write_in_place() -> None:
    """Write each file under its own name from the first byte on, as programs do that take no care."""
    import cifar10.files
    import cifar10.runs.run
    import cifar10.training.checkpointing

    @contextmanager
    def write(path: Path) -> Iterator[BinaryIO]:
        with path.open("wb") as file:
            yield file

    for module in (cifar10.files, cifar10.runs.run, cifar10.training.checkpointing):
        vars(module)["atomic_write"] = write


KILLED_WHILE_SAVING = Experiment(
    row="C2",
    name="killed_while_saving",
    claim="each file under its own name is whole, what was unfinished is removed, the run ends as if not killed",
    run=_killed,
    short=4,
    full=200,
    control=_killed_without_temporary_files,
)
