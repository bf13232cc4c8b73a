"""Stop a training by SIGTERM or Ctrl-C at any moment: it saves, and goes on with the bits of an unstopped run."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cifar10.runs.checkpoint_names import LAST
from tests.faults.experiment import Experiment, Trial
from tests.faults.killed_training import MOMENTS, RUN, forget, resumed_problem, stage, started
from tests.faults.training_process import RECIPES, Ended, Running, has_finished, reaches, wait_for_end

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_SECONDS_TO_SAVE = 5.0
_ATTEMPTS = 30


def _stopped(number: int, folder: Path) -> Iterator[Trial]:
    for index in range(number):
        recipe, moment = list(RECIPES)[index % len(RECIPES)], list(MOMENTS)[(index + 2) % len(MOMENTS)]
        place = folder / str(index)
        place.mkdir()
        fault, problem = _stop_anew(RECIPES[recipe], place, moment, _SIGNALS[index // 2 % 2], random.Random(index))
        yield Trial(f"{recipe}: {fault}", problem or resumed_problem(RECIPES[recipe], place))


def _stopped_without_optimizer_state(number: int, folder: Path) -> Iterator[Trial]:
    for index in range(number):
        recipe = list(RECIPES)[index % len(RECIPES)]
        place = folder / str(index)
        place.mkdir()
        fault, _ = _stop_anew(RECIPES[recipe], place, "save", signal.SIGTERM, random.Random(index))
        forget(place / RUN / LAST)
        yield Trial(f"{recipe}: {fault}, without the state of the optimizer", resumed_problem(RECIPES[recipe], place))


def _stop_anew(
    settings: tuple[str, ...], folder: Path, moment: str, number: signal.Signals, generator: random.Random
) -> tuple[str, str]:
    """Stop a new run at a random moment, again until the signal hits; return when that was, and what is wrong."""
    for _ in range(_ATTEMPTS):
        shutil.rmtree(folder / "models", ignore_errors=True)
        process = started(settings, folder, moment)
        _wait_until_listening(process)
        seconds = generator.uniform(0, MOMENTS[moment])
        time.sleep(seconds)
        sent_at = time.time()
        ended, seconds_to_end = _signalled(process, number)
        if ended is not None and ended.exit_code != 0:
            when = stage(folder, ended.text)
            fault = f"{number.name} {seconds:.2f} s after the {moment}, {when}, ended {seconds_to_end:.1f} s later"
            return fault, _ending_problem(ended, folder / RUN / LAST, number, seconds_to_end, sent_at)
    raise RuntimeError(f"no run could be stopped after the {moment}")


def _wait_until_listening(process: Running) -> None:
    """Wait until the process handles SIGTERM, as Python itself does not, or ends."""

    def is_listening() -> bool:
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            [mask] = [line.split()[1] for line in status if line.startswith("SigCgt:")]
            return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
        return False

    reaches(process, is_listening)


def _signalled(process: Running, number: signal.Signals) -> tuple[Ended | None, float]:
    """Return how the process ends that has got the signal, None if it had ended before, and the seconds until then."""
    if has_finished(process):
        return None, 0.0
    os.kill(process.pid, number)
    began = time.monotonic()
    return wait_for_end(process), time.monotonic() - began


def _ending_problem(ended: Ended, last: Path, number: signal.Signals, seconds: float, sent_at: float) -> str:
    """Return what is wrong with a stop: exit code, message, time, or nothing saved although training had begun."""
    if problem := ended.problem(128 + number):
        return problem
    told = [line for line in ended.text.splitlines() if "stopped by" in line or line == "interrupted"]
    if len(told) != 1 or ended.text.splitlines()[-1] != told[0]:
        return f"does not end with one line that says so: {ended.text[-300:]}"
    if seconds > _MOST_SECONDS_TO_SAVE:
        return f"ended {seconds:.1f} s after the signal"
    if not last.exists():
        return "" if "--resume" not in told[0] else f"nothing was saved: {told[0]}"
    if "--resume=run" not in told[0] and "complete" not in told[0]:
        return f"does not say how to go on: {told[0]}"
    is_stale = last.stat().st_mtime < sent_at - 1 and "saved at" in told[0]
    return f"{told[0]}: the checkpoint is of an earlier moment" if is_stale else ""


STOPPED_TRAINING = Experiment(
    row="C3",
    name="stopped_training",
    claim="exit code 143 or 130 within 5 s with the state saved, and resumed it is in every bit the unstopped run",
    run=_stopped,
    short=2,
    full=60,
    control=_stopped_without_optimizer_state,
)
