"""A disk that is full, slow or may not be written: one clear line, checkpoints stay, and later the run goes on."""

import ctypes
import functools
import os
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

_SETTINGS = RECIPES["AdamW, dropout"]
_DISK_BYTES = 4 * 2**20
_SLOW_SECONDS = 1.0
Kind = Callable[[Path, random.Random], str]
"""A folder to work in, and what is random -> what is wrong afterwards, or ""."""


def in_turn(kinds: dict[str, Kind], number: int, folder: Path) -> Iterator[Trial]:
    for index in range(number):
        name = list(kinds)[index % len(kinds)]
        place = folder / str(index)
        place.mkdir()
        yield Trial(name, kinds[name](place, random.Random(index)))


def _start(folder: Path, prepare: Prepare = leave_as_it_is) -> ForkedProcess:
    return ForkedProcess(command(_SETTINGS), folder, folder.parent / f"{folder.name}.log", prepare)


def start_and_save(folder: Path, generator: random.Random, prepare: Prepare = leave_as_it_is) -> ForkedProcess:
    """Start the run, and return at a random moment after its first save."""
    process = _start(folder, prepare)
    reaches(process, (folder / RUN / BEST).exists)
    time.sleep(generator.uniform(0, 0.4))
    return process


def _failure_problem(ended: Ended, folder: Path, *said: str) -> str:
    """Return what is wrong with a failed save: exit code, lines, or what remains in the run folder."""
    if problem := ended.problem(1):
        return problem
    after_training = [line for line in ended.text.splitlines() if not line.startswith(("epoch ", "testing "))]
    if len(ended.errors) != 1 or len(after_training) > 3 or not all(word in ended.errors[0] for word in said):
        return f"not one clear line: {ended.text[-500:]}"
    return _state_problem(folder / RUN)


def _state_problem(run: Path) -> str:
    if left := unfinished_files(run):
        return f"{', '.join(left)} left behind"
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


# -- without mounting ----------------------------------------------------------------------------------------------


def _file_size_limit(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator)
    size = (folder / RUN / LAST).stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (generator.randrange(size), resource.RLIM_INFINITY))
    problem = _failure_problem(wait_for_end(process), folder, LAST, "ulimit -f")
    return problem or resumed_problem(_SETTINGS, folder)


def _unwritable_at_the_start(folder: Path, _: random.Random) -> str:
    (folder / "models").mkdir(mode=0o555)
    problem = refusal_problem(wait_for_end(_start(folder, without_privileges)), "cannot be written", "models_dir=DIR")
    (folder / "models").chmod(0o755)
    return problem or resumed_problem(_SETTINGS, folder)


def _unwritable_in_mid_run(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator, without_privileges)
    (folder / RUN).chmod(0o555)
    ended = wait_for_end(process)
    (folder / RUN).chmod(0o755)
    return _failure_problem(ended, folder, LAST, "Permission denied") or resumed_problem(_SETTINGS, folder)


def _file_in_place_of_the_folder(folder: Path, _: random.Random) -> str:
    (folder / "models").write_text("")
    return refusal_problem(wait_for_end(_start(folder)), "models/run", "models_dir=DIR")


def _other_temporary_folder(folder: Path, _: random.Random, name: str) -> str:
    ended = wait_for_end(_start(folder, functools.partial(_set_temporary_folder, name)))
    return finished_problem(folder / RUN, _SETTINGS, ended)


def _set_temporary_folder(name: str) -> None:
    os.environ["TMPDIR"], tempfile.tempdir = name, None


def _slow_disk(folder: Path, _: random.Random) -> str:
    return finished_problem(folder / RUN, _SETTINGS, wait_for_end(_start(folder, _slow_down)))


def _slow_disk_and_signal(folder: Path, generator: random.Random) -> str:
    process = _start(folder, _slow_down)
    reaches(process, lambda: bool(unfinished_files(folder / RUN)) and (folder / RUN / LAST).exists())
    time.sleep(generator.uniform(0, _SLOW_SECONDS))
    os.kill(process.pid, 15)
    ended = wait_for_end(process)
    if problem := ended.problem(143) or _state_problem(folder / RUN):
        return problem
    if f"stopped by SIGTERM and saved at {RUN / LAST}" not in ended.text.splitlines()[-1]:
        return f"does not say that it has saved: {ended.text[-300:]}"
    return resumed_problem(_SETTINGS, folder)


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
    "TMPDIR that does not exist": functools.partial(_other_temporary_folder, name="/nowhere"),
    "TMPDIR on another file system": functools.partial(_other_temporary_folder, name="/dev/shm"),
    "a disk whose every flush takes a second": _slow_disk,
    "SIGTERM while a slow disk saves": _slow_disk_and_signal,
}


# -- on a small disk of its own ------------------------------------------------------------------------------------


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system in memory."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)


def _fill(disk: Path, leave: int = 0) -> Path:
    """Write a file that leaves so many bytes free, and return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


def _full_in_mid_run(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        process = start_and_save(disk, generator)
        ballast = _fill(disk, generator.randrange((disk / RUN / LAST).stat().st_size))
        problem = _failure_problem(wait_for_end(process), disk, "No space left on device", "make room")
        ballast.unlink()
        return problem or resumed_problem(_SETTINGS, disk)


def _no_room_for_names(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, "nr_inodes=64") as disk:
        process = start_and_save(disk, generator)
        extra = list(_empty_files(disk / "extra"))
        problem = _failure_problem(wait_for_end(process), disk, "No space left on device")
        for path in extra:
            path.unlink()
        return problem or resumed_problem(_SETTINGS, disk)


def _empty_files(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    for number in range(64):
        try:
            (folder / str(number)).touch()
        except OSError:
            return
        yield folder / str(number)


def _full_at_the_start(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        ballast = _fill(disk)
        problem = refusal_problem(wait_for_end(_start(disk)), "No space left on device")
        ballast.unlink()
        return problem or resumed_problem(_SETTINGS, disk)


def _first_save_does_not_fit(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        ballast = _fill(disk, leave=16384 + generator.randrange(32768))
        problem = _failure_problem(wait_for_end(_start(disk)), disk, "make room")
        ballast.unlink()
        return problem or resumed_problem(_SETTINGS, disk)


def _read_only_at_the_start(folder: Path, _: random.Random) -> str:
    with _mounted(folder, "ro") as disk:
        return refusal_problem(wait_for_end(_start(disk)), "Read-only file system", "models_dir=DIR")


def _read_only_when_resumed(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        process = start_and_save(disk, generator)
        os.kill(process.pid, 9)
        wait_for_end(process)
        _remount(disk, "ro")
        before = _contents(disk / RUN)
        problem = refusal_problem(wait_for_end(_start(disk)), "Read-only file system")
        _remount(disk, "rw")
        if not problem and _contents(disk / RUN) != before:
            problem = "files of the run have changed"
        return problem or resumed_problem(_SETTINGS, disk)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True, capture_output=True)


def _contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def _full_temporary_folder(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, "size=4096") as disk:
        _fill(disk)
        place = folder / "work"
        place.mkdir()
        return _other_temporary_folder(place, generator, str(disk))


_MOUNTED_KINDS: dict[str, Kind] = {
    "the disk is full in mid-run": _full_in_mid_run,
    "the disk is full before the start": _full_at_the_start,
    "a disk on which the first checkpoint has no room": _first_save_does_not_fit,
    "no room for further names": _no_room_for_names,
    "a read-only disk": _read_only_at_the_start,
    "a disk that is read-only when the run goes on": _read_only_when_resumed,
    "a full TMPDIR": _full_temporary_folder,
}


def _cannot_mount() -> str:
    return "" if os.geteuid() == 0 else "only root may mount a small disk"


SLOW_AND_UNWRITABLE_DISKS = Experiment(
    row="C2",
    name="slow_and_unwritable_disks",
    claim="found before the first step or told in one line; checkpoints stay, and the run ends as if undisturbed",
    run=functools.partial(in_turn, _KINDS),
    short=3,
    full=24,
)
FULL_DISKS = Experiment(
    row="C2",
    name="full_disks",
    claim="exit code 1 and one line; checkpoints stay whole, and with room again the run ends as if undisturbed",
    run=functools.partial(in_turn, _MOUNTED_KINDS),
    short=2,
    full=28,
    obstacle=_cannot_mount,
)
