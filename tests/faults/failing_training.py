"""Trainings that cannot go on as begun: they diverge, memory runs out, their folder goes, the clock or a second run."""

import functools
import json
import os
import random
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.folder import HISTORY, SCORES
from cifar10.runs.record import RECORD
from tests.faults.disk_faults import SETTINGS, Kind, in_turn, refusal_problem, start_and_save
from tests.faults.experiment import Experiment
from tests.faults.killed_training import RUN, command, resumed_problem
from tests.faults.training_process import (
    MOST_SECONDS,
    Ended,
    ForkedProcess,
    finished_problem,
    run_to_end,
    wait_for_end,
)

_STEPS_OF_AN_EPOCH = 5
_WIDE = (
    *SETTINGS,
    "data_loading.image_size=32",
    "data_loading.train_size=1000",
    "model.width=64",
    "training.batch_size=1000",
)  # 1 GB of memory for a step


# -- loss and memory -----------------------------------------------------------------------------------------------


def _diverges(folder: Path, generator: random.Random) -> str:
    growth = 1.2 ** generator.uniform(1, 10)  # of the weights in a step: they are infinite after 50 to 500 steps
    settings = ("optimizer=sgd", "schedule=constant", "optimizer.momentum=0.0", "optimizer.nesterov=false")
    rate = ("optimizer.lr=0.1", f"optimizer.weight_decay={10 * (1 + growth)}", "training.epochs=300")
    ended = run_to_end(("train", *SETTINGS, *settings, *rate, "run_name=run"), folder)
    return _divergence_problem(ended, folder / RUN, "0.1")


def _diverges_within_steps(folder: Path, _: random.Random) -> str:
    words = ("train", *SETTINGS, "optimizer=sgd", "schedule=constant", "optimizer.lr=1e+38", "run_name=run")
    ended = run_to_end(words, folder)
    return _divergence_problem(ended, folder / RUN, "1e+38")


def _divergence_problem(ended: Ended, run: Path, rate: str) -> str:
    if problem := ended.problem(1):
        return problem
    kept = f"the last saved state: {RUN / LAST}" if (run / LAST).exists() else "nothing was saved before"
    told = [line for line in ended.text.splitlines() if not line.startswith("epoch ")]
    is_clear = len(told) == 3 and "not finite at step " in told[-1] and ", in epoch " in told[-1]
    if not is_clear or f"lower optimizer.lr (now {rate})" not in told[0] or kept != told[1]:
        return f"does not say where and what to lower: {ended.text[-500:]}"
    if (run / SCORES).exists():
        return "has scores"
    step = int(told[-1].partition("at step ")[2].split(",")[0])
    for path in (run / LAST, run / BEST):
        if path.exists() and not all(value.isfinite().all() for value in load_checkpoint(path).weights.values()):
            return f"{path.name} has weights that are not finite"
        if path.exists() and torch.load(path, weights_only=True)["global_step"] > step:
            return f"{path.name} is of a later step"
    return ""


def _batch_too_large(folder: Path, generator: random.Random) -> str:
    limit = functools.partial(_limit_memory, generator.randrange(100, 500) * 2**20)
    ended = run_to_end(("train", *_WIDE, "run_name=run"), folder, limit)
    return refusal_problem(ended, "memory ran out", "lower training.batch_size=1000")


def _test_batch_too_large(folder: Path, generator: random.Random) -> str:
    limit = functools.partial(_limit_memory, generator.randrange(100, 300) * 2**20)
    small = ("training.batch_size=20", "training.epochs=1", "data_loading.train_size=20")
    large = ("data_loading.test_size=1000", "evaluation.batch_size=1000", "run_name=run")
    ended = run_to_end(("train", *_WIDE, *small, *large), folder, limit)
    if problem := ended.problem(1):
        return problem
    is_clear = len(ended.errors) == 1 and "lower evaluation.batch_size=1000" in ended.errors[0]
    return "" if is_clear else f"does not name the setting: {ended.text[-500:]}"


def _network_too_large(folder: Path, _: random.Random) -> str:
    ended = run_to_end(("train", *SETTINGS, "model.width=1000000", "run_name=run"), folder)
    problem = refusal_problem(ended, "memory ran out", "lower model.width=1000000")
    return problem or ("a folder was made" if (folder / "models").exists() else "")


def _limit_memory(more: int) -> None:
    """Allow this process so many bytes more than it has."""
    limit = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# -- the clock -----------------------------------------------------------------------------------------------------


def _clock_is_set(folder: Path, generator: random.Random, seconds: float) -> str:
    prepare = functools.partial(_set_clock, generator.uniform(0, 2.5), seconds)
    ended = wait_for_end(ForkedProcess(command(SETTINGS), folder, folder / "log", prepare))
    return finished_problem(folder / RUN, SETTINGS, ended) or _times_problem(folder / RUN)


def _clock_is_set_between(folder: Path, generator: random.Random) -> str:
    """The first process has a clock that is a day ahead of that of the second one."""
    process = start_and_save(folder, generator, functools.partial(_set_clock, 0.0, 86400.0))
    os.kill(process.pid, 15)
    wait_for_end(process)
    return resumed_problem(SETTINGS, folder) or _times_problem(folder / RUN)


def _set_clock(after: float, seconds: float) -> None:
    """Set the clock of this process forward, or back, after some seconds."""
    clock, begin = time.time, time.monotonic()

    def shifted() -> float:
        return clock() + (seconds if time.monotonic() - begin >= after else 0.0)

    vars(time).update(time=shifted, time_ns=lambda: int(shifted() * 1e9))


def _times_problem(run: Path) -> str:
    record, scores = json.loads((run / RECORD).read_text()), json.loads((run / SCORES).read_text())
    if record["ended"] < record["started"]:
        return f"{RECORD} says that the run ended before it started"
    seconds = [float(row.rpartition(",")[2]) for row in (run / HISTORY).read_text().splitlines()[1:]]
    if min(seconds) < 0 or not all(0 <= scores[key] < MOST_SECONDS for key in ("cpu_seconds",)):
        return f"negative or absurd durations: {min(seconds)}, {scores['wall_seconds']}, {scores['cpu_seconds']}"
    return "" if sum(seconds) < MOST_SECONDS else f"the epochs take {sum(seconds):.0f} s"


# -- the folder ----------------------------------------------------------------------------------------------------


def _two_of_one_name(folder: Path, generator: random.Random) -> str:
    words = ("train", *SETTINGS, "run_name=run")
    first, second = _two_at_once(words, folder, generator)
    winner, loser = sorted((first, second), key=lambda ended: ended.exit_code)
    problem = finished_problem(folder / RUN, SETTINGS, winner)
    return problem or refusal_problem(loser, "models/run", "choose another run_name")


def _two_that_go_on(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator)
    os.kill(process.pid, 9)
    wait_for_end(process)
    first, second = _two_at_once(command(SETTINGS), folder, generator)
    winner, loser = sorted((first, second), key=lambda ended: ended.exit_code)
    if problem := finished_problem(folder / RUN, SETTINGS, winner):
        return problem
    return "" if "is finished after" in loser.text else refusal_problem(loser, "another process")


def _two_without_a_name(folder: Path, generator: random.Random) -> str:
    ends = _two_at_once(("train", *SETTINGS), folder, generator)
    runs = sorted((folder / "models").iterdir())
    if len(runs) != 2:
        return f"{len(runs)} folders: {[ended.text[-300:] for ended in ends]}"
    return "; ".join(filter(None, (finished_problem(run, SETTINGS, end) for run, end in zip(runs, ends, strict=True))))


def _two_at_once(words: tuple[str, ...], folder: Path, generator: random.Random) -> tuple[Ended, Ended]:
    processes = []
    for number in range(2):
        processes.append(ForkedProcess(words, folder, folder.parent / f"{folder.name}.{number}.log"))
        time.sleep(generator.uniform(0, 0.05))
    return wait_for_end(processes[0]), wait_for_end(processes[1])


def _deleted(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator)
    while (folder / "models").exists() and process.exit_code() is None:
        with suppress(OSError):  # the run has just written another file
            shutil.rmtree(folder / "models")
    problem = _lost_folder_problem(wait_for_end(process))
    return problem or resumed_problem(SETTINGS, folder)


def _moved(folder: Path, generator: random.Random) -> str:
    process = start_and_save(folder, generator)
    (folder / RUN).rename(folder / "models/moved")
    if problem := _lost_folder_problem(wait_for_end(process)):
        return problem
    if (folder / RUN).exists():
        return "the folder was made again"
    ended = run_to_end(("train", "--resume=moved"), folder)
    return finished_problem(folder / "models/moved", SETTINGS, ended)


def _lost_folder_problem(ended: Ended) -> str:
    """Return what is wrong with the end of a run whose folder is not there any more."""
    if problem := ended.problem(1):
        return problem
    told = [line for line in ended.text.splitlines() if not line.startswith(("epoch ", "testing "))]
    is_clear = len(ended.errors) == 1 and len(told) <= 3 and "models/run" in ended.errors[0]
    return "" if is_clear and "--resume" not in ended.text else f"not one clear line: {ended.text[-500:]}"


_KINDS: dict[str, Kind] = {
    "the weights grow without bound": _diverges,
    "memory for a training batch runs out": _batch_too_large,
    "the run folder is moved": _moved,
    "the clock is set back by an hour": functools.partial(_clock_is_set, seconds=-3600.0),
    "two runs of one name at once": _two_of_one_name,
    "a rate of 1e38": _diverges_within_steps,
    "memory for a test batch runs out": _test_batch_too_large,
    "no memory for the network": _network_too_large,
    "the clock is set forward by a day": functools.partial(_clock_is_set, seconds=86400.0),
    "the clock is set back by a day before the run goes on": _clock_is_set_between,
    "two processes go on with one run at once": _two_that_go_on,
    "two runs without a name at once": _two_without_a_name,
    "the run folder is deleted": _deleted,
}

FAILING_TRAINING = Experiment(
    row="C5",
    name="failing_training",
    claim="one line says what happened and what to do, the last good state is kept, and no other run is touched",
    run=functools.partial(in_turn, _KINDS),
    short=4,
    full=65,
)
