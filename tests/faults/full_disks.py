"""A small disk of its own for a training, which is full or read-only: one clear line, and later the run goes on."""

import functools
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cifar10.runs.checkpoint_names import LAST
from tests.faults.disk_faults import (
    SETTINGS,
    Kind,
    failure_problem,
    in_turn,
    other_temporary_folder,
    refusal_problem,
    start,
    start_and_save,
)
from tests.faults.experiment import Experiment
from tests.faults.killed_training import RUN, resumed_problem
from tests.faults.training_process import wait_for_end

_DISK_BYTES = 4 * 2**20


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
        problem = failure_problem(wait_for_end(process), disk, "No space left on device", "make room")
        ballast.unlink()
        return problem or resumed_problem(SETTINGS, disk)


def _no_room_for_names(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, "nr_inodes=64") as disk:
        process = start_and_save(disk, generator)
        extra = list(_empty_files(disk / "extra"))
        problem = failure_problem(wait_for_end(process), disk, "No space left on device")
        for path in extra:
            path.unlink()
        return problem or resumed_problem(SETTINGS, disk)


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
        problem = refusal_problem(wait_for_end(start(disk)), "No space left on device")
        ballast.unlink()
        return problem or resumed_problem(SETTINGS, disk)


def _first_save_does_not_fit(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        ballast = _fill(disk, leave=16384 + generator.randrange(32768))
        problem = failure_problem(wait_for_end(start(disk)), disk, "make room")
        ballast.unlink()
        return problem or resumed_problem(SETTINGS, disk)


def _read_only_at_the_start(folder: Path, _: random.Random) -> str:
    with _mounted(folder, "ro") as disk:
        return refusal_problem(wait_for_end(start(disk)), "Read-only file system", "models_dir=DIR")


def _read_only_when_resumed(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, f"size={_DISK_BYTES}") as disk:
        process = start_and_save(disk, generator)
        os.kill(process.pid, 9)
        wait_for_end(process)
        _remount(disk, "ro")
        before = _contents(disk / RUN)
        problem = refusal_problem(wait_for_end(start(disk)), "Read-only file system")
        _remount(disk, "rw")
        if not problem and _contents(disk / RUN) != before:
            problem = "files of the run have changed"
        return problem or resumed_problem(SETTINGS, disk)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True, capture_output=True)


def _contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def _full_temporary_folder(folder: Path, generator: random.Random) -> str:
    with _mounted(folder, "size=4096") as disk:
        _fill(disk)
        place = folder / "work"
        place.mkdir()
        return other_temporary_folder(place, generator, str(disk))


_KINDS: dict[str, Kind] = {
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


FULL_DISKS = Experiment(
    row="C2",
    name="full_disks",
    claim="exit code 1 and one line; checkpoints stay whole, and with room again the run ends as if undisturbed",
    run=functools.partial(in_turn, _KINDS),
    short=2,
    full=28,
    obstacle=_cannot_mount,
)
