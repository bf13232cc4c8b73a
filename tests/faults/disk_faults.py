"""A disk that is slow or may not be written: one clear line, checkpoints stay, and later the run goes on."""

import ctypes
import functools
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cifar10.errors import UserError
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import load_checkpoint
from tests.faults.experiment import Experiment, Trial
from tests.faults.killed_training import RUN, command, resumed_problem
from tests.faults.training_process import (
    RECIPES,
    Ended,
    ForkedProcess,
    Prepare,
    finished_problem,
    leave_as_it_is,
    reaches,
    unfinished_files,
    wait_for_end,
)

SETTINGS = RECIPES["AdamW, dropout"]
_SLOW_SECONDS = 1.0
_MOST_OUTPUT_BYTES = 10_000
Kind = Callable[[Path, random.Random], str]
"""Working folder, random generator -> the problem afterwards, or ""."""


def in_turn(kinds: dict[str, Kind], number: int, folder: Path) -> Iterator[Trial]:
    """Make the faults one after the other, each in a folder of its own, and begin again after the last."""
    for index in range(number):
        name = list(kinds)[index % len(kinds)]
        place = folder / str(index)
        place.mkdir()
        yield Trial(name, kinds[name](place, random.Random(index)))


def start(folder: Path, prepare: Prepare = leave_as_it_is) -> ForkedProcess:
    """Start the run in `folder`, and its output beside it, since `folder` may be full."""
    return ForkedProcess(command(SETTINGS), folder, folder.parent / f"{folder.name}.log", prepare)


def start_and_save(folder: Path, generator: random.Random, prepare: Prepare = leave_as_it_is) -> ForkedProcess:
    """Start the run, and return at a random moment after its first save."""
    process = start(folder, prepare)
    reaches(process, (folder / RUN / LAST).exists)
    time.sleep(generator.uniform(0, 0.4))
    return process


def failure_problem(ended: Ended, folder: Path, *said: str) -> str:
    """Return what is wrong with a failed save: exit code, lines, or what remains in the run folder."""
    return told_problem(ended, *said) or _leftover_problem(folder / RUN) or _checkpoints_problem(folder / RUN)


def told_problem(ended: Ended, *said: str) -> str:
    """Return what is wrong with exit code and lines of a failed save."""
    if problem := ended.problem(1):
        return problem
    after_training = [line for line in ended.text.splitlines() if not line.startswith(("epoch ", "testing "))]
    if len(ended.errors) != 1 or len(after_training) > 3 or not all(word in ended.errors[0] for word in said):
        return f"not one clear line: {ended.text[-500:]}"
    return ""


def _leftover_problem(run: Path) -> str:
    left = unfinished_files(run)
    return f"{', '.join(left)} left behind" if left else ""


def _checkpoints_problem(run: Path) -> str:
    try:
        for name in (LAST, BEST):
            if (run / name).exists():
                load_checkpoint(run / name)
    except UserError as error:
        return str(error)
    return ""


def refusal_problem(ended: Ended, *said: str) -> str:
    """Return what is wrong with a refusal before the first step."""
    if problem := ended.problem(1, 2):
        return problem
    if len(ended.errors) != 1 or ended.text.count("\n") > 3 or not all(word in ended.errors[0] for word in said):
        return f"not one clear line: {ended.text[-500:]}"
    return ""


def _file_size_limit(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator)
    size = (folder / RUN / LAST).stat().st_size
    limit = generator.randrange(_MOST_OUTPUT_BYTES, size)  # the file that its lines go to has the same limit
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    problem = failure_problem(wait_for_end(process), folder, LAST, "ulimit -f")
    return problem or resumed_problem(SETTINGS, folder)


def _unwritable_at_the_start(folder: Path, _: random.Random) -> str:
    (folder / "models").mkdir(mode=0o555)
    problem = refusal_problem(wait_for_end(start(folder, without_privileges)), "cannot be written", "models_dir=DIR")
    (folder / "models").chmod(0o755)
    return problem or resumed_problem(SETTINGS, folder)


def _unwritable_in_mid_run(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator, without_privileges)
    (folder / RUN).chmod(0o555)
    ended = wait_for_end(process)
    (folder / RUN).chmod(0o755)  # until then, nobody could remove what had not been written to its end
    problem = told_problem(ended, f"{RUN}/", "Permission denied") or _checkpoints_problem(folder / RUN)
    return problem or resumed_problem(SETTINGS, folder) or _leftover_problem(folder / RUN)


def _file_in_place_of_the_folder(folder: Path, _: random.Random) -> str:
    (folder / "models").write_text("")
    return refusal_problem(wait_for_end(start(folder)), "models/run", "models_dir=DIR")


def other_temporary_folder(folder: Path, _: random.Random, name: str) -> str:
    ended = wait_for_end(start(folder, functools.partial(_set_temporary_folder, name)))
    return finished_problem(folder / RUN, SETTINGS, ended)


def _set_temporary_folder(name: str) -> None:
    os.environ["TMPDIR"], tempfile.tempdir = name, None


def _slow_disk(folder: Path, _: random.Random) -> str:
    rarely = (*SETTINGS, "training.save_every_seconds=5")
    ended = wait_for_end(ForkedProcess(command(rarely), folder, folder / "log", _slow_down))
    return finished_problem(folder / RUN, SETTINGS, ended)


def _slow_disk_and_signal(folder: Path, generator: random.Random) -> str:
    process = start(folder, _slow_down)
    reaches(process, lambda: bool(unfinished_files(folder / RUN)) and (folder / RUN / LAST).exists())
    time.sleep(generator.uniform(0, _SLOW_SECONDS))
    os.kill(process.pid, 15)
    ended = wait_for_end(process)
    if problem := ended.problem(143) or _leftover_problem(folder / RUN) or _checkpoints_problem(folder / RUN):
        return problem
    if f"stopped by SIGTERM and saved at {RUN / LAST}" not in ended.text.splitlines()[-1]:
        return f"does not say that it has saved: {ended.text[-300:]}"
    return resumed_problem(SETTINGS, folder)


def _slow_down() -> None:
    """Make each flush to the disk take a second."""
    flush = os.fsync

    def flush_slowly(descriptor: Any) -> None:
        time.sleep(_SLOW_SECONDS)
        flush(descriptor)

    vars(os)["fsync"] = flush_slowly


def without_privileges() -> None:
    """Let this process, if it is root's, write only where the rights of files and folders allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # capabilities(7), version 3
    if libc.capget(header, sets) == 0:
        for first in range(3):  # effective, permitted, inheritable
            sets[first] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(header, sets)


_KINDS: dict[str, Kind] = {
    "the limit for the size of a file, lowered in mid-run": _file_size_limit,
    "a models folder that may not be written": _unwritable_at_the_start,
    "a run folder that may not be written any more": _unwritable_in_mid_run,
    "a file called models": _file_in_place_of_the_folder,
    "TMPDIR that does not exist": functools.partial(other_temporary_folder, name="/nowhere"),
    "TMPDIR on another file system": functools.partial(other_temporary_folder, name="/dev/shm"),
    "a disk whose every flush takes a second": _slow_disk,
    "SIGTERM while a slow disk saves": _slow_disk_and_signal,
}


SLOW_AND_UNWRITABLE_DISKS = Experiment(
    row="C2",
    name="slow_and_unwritable_disks",
    claim="found before the first step or told in one line; checkpoints stay, and the run ends as if undisturbed",
    run=functools.partial(in_turn, _KINDS),
    short=3,
    full=24,
)
