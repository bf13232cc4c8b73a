"""Measure engines against each other, in turn, in a process of their own.

`measure` starts it: `python -P -m cifar10.inference.engines.measuring FILE --engines=A,B --threads=1`. What it imports
does not stay in the calling process, which may need one engine only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from cifar10.errors import UserError, first_line
from cifar10.inference.engines import Engine, load_model
from cifar10.system.limits import num_cpus

BATCH_SIZES = (1, 256)
_ROUNDS = 7
_SECONDS_PER_ROUND = 0.05  # of each engine
_MOST_SECONDS = 600


class Measured(TypedDict, total=False):
    """What was found out about an engine."""

    refused: str
    """Why it cannot compute the model here; then nothing else is known."""
    engine: str
    """Name and version of what computes."""
    precision: str
    seconds: dict[str, float]
    """Batch size -> median of the seconds that a batch takes."""
    least_seconds: dict[str, float]
    """Batch size -> the least of them, which other work on the machine changes least."""


def measure(path: Path, engines: Sequence[str], num_threads: int | None = None) -> dict[str, Measured]:
    """Return what each engine takes for batches of random images on the CPU.

    Args:
        path: A checkpoint.
        engines: Names of files in `conf/engine/`.
        num_threads: Processors to use; None: all.

    Raises:
        UserError: The process failed.
    """
    threads = min(num_threads or num_cpus(), num_cpus())
    command = [
        sys.executable,
        "-P",
        "-m",
        __name__,
        os.path.abspath(path),
        f"--engines={','.join(engines)}",
        f"--threads={threads}",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"measuring the engines took more than {_MOST_SECONDS} seconds") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"the engines could not be measured: {reason[0]}")
    measured: dict[str, Measured] = json.loads(done.stdout)
    return measured


def seconds_per_batch(engines: Mapping[str, Engine], image_size: int, batch_size: int) -> dict[str, list[float]]:
    """Return what batches took with each engine; they take turns, and each warms up before its turn.

    Args:
        engines: At least one.
        image_size: S of the images, uint8 (batch_size, S, S, 3).
        batch_size: At least 1.
    """
    images = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            engine.probabilities(images)
            begin = now = time.perf_counter()
            while now - begin < _SECONDS_PER_ROUND:
                started = now
                engine.probabilities(images)
                now = time.perf_counter()
                seconds[name].append(now - started)
    return seconds


def main(words: Sequence[str] | None = None) -> None:
    """Print what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--engines", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args(words)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _limit_processors(arguments.threads)
    found: dict[str, Measured] = {}
    for batch_size in BATCH_SIZES:
        engines: dict[str, Engine] = {}
        for name in arguments.engines.split(","):
            try:
                engines[name], description = load_model(name, arguments.path, "cpu", batch_size)
            except UserError as error:
                found[name] = {"refused": first_line(error)}
                continue
            about = engines[name].describe()
            empty = Measured(engine=about["engine"], precision=about["precision"], seconds={}, least_seconds={})
            found.setdefault(name, empty)
        if not engines:
            break
        for name, seconds in seconds_per_batch(engines, description.image_size, batch_size).items():
            found[name]["seconds"][str(batch_size)] = statistics.median(seconds)
            found[name]["least_seconds"][str(batch_size)] = min(seconds)
    print(json.dumps(found))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _limit_processors(number: int) -> None:
    """Run on the first `number` of the processors of this process, with as many threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])
    os.environ["OMP_NUM_THREADS"] = str(number)


if __name__ == "__main__":
    main()
