"""Kill a training at any moment: the same command, typed again, ends with the bits of a run that nobody has killed."""

import functools
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cifar10.runs.checkpoint_names import LAST
from cifar10.runs.folder import HISTORY
from tests.faults.experiment import Experiment, Trial
from tests.faults.training_process import (
    RECIPES,
    Ended,
    ForkedProcess,
    FreshProcess,
    Running,
    different_results,
    finished_problem,
    has_finished,
    reaches,
    results_of,
    wait_for_end,
)

RUN = Path("models/run")
MOMENTS = {"start": 10.0, "claim": 0.3, "save": 1.2, "test": 1.5}
"""From when a fault may come -> for how many seconds: the start of the process, the claim of the run folder, its first
checkpoint, the test. Only for the first one the process is a fresh one, which has to import the program."""
_ATTEMPTS = 30
_PAIR = (*RECIPES["AdamW, dropout"], "training.devices=2", "training.epochs=20")


def command(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a command that starts the run, and goes on with it when it is typed again."""
    return ("train", *settings, "run_name=run", "--resume=auto")


def started(settings: tuple[str, ...], folder: Path, moment: str) -> Running:
    """Start the command, and wait for a moment of `MOMENTS` or the end."""
    kind = FreshProcess if moment == "start" else ForkedProcess
    process: Running = kind(command(settings), folder, folder / "log")
    run = folder / RUN
    conditions = {
        "start": lambda: True,
        "claim": (run / ".lock").exists,
        "save": (run / LAST).exists,
        "test": lambda: "\ntesting " in process.log.read_text(),
    }
    reaches(process, conditions[moment])
    return process


def stage(folder: Path, text: str) -> str:
    """Return how far the run in `folder` had come when it ended, and said `text`."""
    run = folder / RUN
    if not run.exists():
        return "before there was a run"
    if not (run / LAST).exists():
        return "before the first save"
    if "\ntesting " in text:
        return "in the test" if not (run / "scores.json").exists() else "after the scores"
    rows = (run / HISTORY).read_text().count("\n") - 1 if (run / HISTORY).exists() else 0
    return f"after epoch {max(rows, 0)}"


def killed(settings: tuple[str, ...], folder: Path, moment: str, generator: random.Random) -> str:
    """Kill the run at a random moment after `moment`, and return when that was; "" if it ended before."""
    process = started(settings, folder, moment)
    seconds = generator.uniform(0, MOMENTS[moment])
    time.sleep(seconds)
    if has_finished(process):
        return ""
    os.kill(process.pid, signal.SIGKILL)
    ended = wait_for_end(process)
    return f"SIGKILL {seconds:.2f} s after the {moment}, {stage(folder, ended.text)}" if ended.exit_code < 0 else ""


def killed_anew(settings: tuple[str, ...], folder: Path, moment: str, generator: random.Random) -> str:
    """Kill a new run, and begin again until the fault hits; return when that was."""
    for _ in range(_ATTEMPTS):
        if words := killed(settings, folder, moment, generator):
            return words
        shutil.rmtree(folder / "models", ignore_errors=True)
    raise RuntimeError(f"no run could be killed after the {moment}")


def _killed_runs(number: int, folder: Path) -> Iterator[Trial]:
    for index in range(number):
        generator = random.Random(index)
        recipe, moment = list(RECIPES)[index % len(RECIPES)], list(MOMENTS)[(index + 2) % len(MOMENTS)]
        place = folder / str(index)
        place.mkdir()
        faults = [killed_anew(RECIPES[recipe], place, moment, generator)]
        for _ in range(generator.randrange(2)):  # the process that goes on may be killed as well
            faults += filter(None, [killed(RECIPES[recipe], place, "claim", generator)])
        problem = resumed_problem(RECIPES[recipe], place)
        yield Trial(f"{recipe}: {'; '.join(faults)}", problem)


def resumed_problem(settings: tuple[str, ...], folder: Path) -> str:
    """Finish a run, and return what is wrong with it."""
    ended = wait_for_end(ForkedProcess(command(settings), folder, folder / "log"))
    return finished_problem(folder / RUN, settings, ended)


def without_optimizer_state(number: int, folder: Path) -> Iterator[Trial]:
    """Set what the optimizer remembers of earlier steps to zero before the run goes on."""
    for index in range(number):
        recipe = list(RECIPES)[index % len(RECIPES)]
        place = folder / str(index)
        place.mkdir()
        fault = killed_anew(RECIPES[recipe], place, "save", random.Random(index))
        forget(place / RUN / LAST)
        yield Trial(f"{recipe}: {fault}, without the state of the optimizer", resumed_problem(RECIPES[recipe], place))


def forget(path: Path) -> None:
    """Set the state of the optimizers in a checkpoint to zero, but for the number of steps."""
    raw = torch.load(path, weights_only=True)
    for optimizer in raw["optimizer_states"]:
        for state in optimizer["state"].values():
            for name, value in state.items():
                if name != "step" and isinstance(value, torch.Tensor):
                    value.zero_()
    torch.save(raw, path)


# -- one run of two processes --------------------------------------------------------------------------------------


@functools.cache
def _whole_pair() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="uninterrupted-", ignore_cleanup_errors=True) as name:
        ended = wait_for_end(FreshProcess(command(_PAIR), Path(name), Path(name) / "log"))
        if problem := ended.problem(0):
            raise RuntimeError(problem)
        return results_of(Path(name) / RUN)


def _killed_pairs(number: int, folder: Path) -> Iterator[Trial]:
    for index in range(number):
        generator = random.Random(index)
        place = folder / str(index)
        place.mkdir()
        fault = problem = ""
        while not fault:  # else the run had ended before
            shutil.rmtree(place / "models", ignore_errors=True)
            fault, problem = _kill_one_of_two(place, generator, rank=(index + 1) % 2, at_start=index % 3 == 2)
        yield Trial(fault, problem or _resumed_pair_problem(place))


def _kill_one_of_two(folder: Path, generator: random.Random, rank: int, at_start: bool) -> tuple[str, str]:
    """Kill one of two processes of a run; return the moment, "" if it had ended, and the problem of the other."""
    process = FreshProcess(command(_PAIR), folder, folder / "log")
    is_there = (lambda: len(_members(process.pid)) == 2) if at_start else (folder / RUN / LAST).exists
    reaches(process, is_there)
    seconds = generator.uniform(0, 8 if at_start else 1.5)
    time.sleep(seconds)
    members = _members(process.pid)
    if len(members) != 2:
        wait_for_end(process)
        has_finished(process)
        return "", ""
    os.kill(members[rank], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(_is_running(member) for member in members) and time.monotonic() < deadline:
        process.exit_code()
        time.sleep(0.05)
    late = [str(member) for member in members if _is_running(member)]
    ended = wait_for_end(process, seconds=0.1 if late else 10)
    since = "its start" if at_start else "the first save"
    fault = f"SIGKILL of process {rank + 1} of 2 {seconds:.2f} s after {since}, {stage(folder, ended.text)}"
    if late:
        os.killpg(process.pid, signal.SIGKILL)
        return fault, f"the other process still runs after a minute: {ended.text[-300:]}"
    return fault, _other_end_problem(ended, rank, is_saved=(folder / RUN / LAST).exists())


def _other_end_problem(ended: Ended, killed_rank: int, is_saved: bool) -> str:
    if killed_rank == 0 or (ended.exit_code < 0 and not is_saved):  # until the two have met, Lightning ends both
        return ended.problem(-signal.SIGKILL)
    told = [line for line in ended.errors if "another process of this run has ended" in line]
    if problem := ended.problem(1):
        return problem
    if len(told) != 1 or is_saved != ("--resume=run" in told[0]):
        return f"does not say what happened and how to go on: {ended.text[-400:]}"
    return ""


def _resumed_pair_problem(folder: Path) -> str:
    ended = wait_for_end(FreshProcess(command(_PAIR), folder, folder / "log"))
    if problem := ended.problem(0):
        return problem
    other = different_results(results_of(folder / RUN), _whole_pair())
    return other and f"differs from an uninterrupted run of two: {other}"


def _members(pid: int) -> list[int]:
    """Return a process and those that it has started."""
    try:
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


KILLED_TRAINING = Experiment(
    row="C1",
    name="killed_training",
    claim="finished by the same command, it is in every bit the run that nobody has killed",
    run=_killed_runs,
    short=2,
    full=60,
    control=without_optimizer_state,
)
KILLED_PROCESS_OF_TWO = Experiment(
    row="C1",
    name="killed_process_of_two",
    claim="the other process ends within a minute, and the run goes on to the bits of an uninterrupted one",
    run=_killed_pairs,
    short=1,
    full=6,
)
