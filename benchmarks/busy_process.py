"""Run a benchmark beside one busy process, which may use the same processors.

    python benchmarks/busy_process.py {computes,streams,thrashes} SCRIPT.py [its arguments]

    computes    in registers: it takes processor time and nothing else
    streams     copies arrays that no cache holds: it takes bandwidth of memory, too
    thrashes    writes to each line of an array as large as the last-level cache: it takes that cache, too

The result says so, in its name and in its text.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np

_COPIED_BYTES = 2**28
_LAST_LEVEL = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
_LAST_LEVEL_BYTES = 32 * 2**20  # where the system does not say
_SPAWN = multiprocessing.get_context("spawn")
_SETTLING_SECONDS = 0.2


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in _WORK:
        raise SystemExit(__doc__)
    kind, script = sys.argv[1], Path(__file__).with_name(Path(sys.argv[2]).name)
    if not script.exists():
        raise SystemExit(f"there is no benchmark {script.name}; name a file of {script.parent.name}/")
    measuring.neighbour = kind
    sys.argv = [str(script), *sys.argv[3:]]
    neighbour = BusyProcess(kind, os.sched_getaffinity(0))
    try:
        with neighbour.working():
            runpy.run_path(str(script), run_name="__main__")
    finally:
        neighbour.end()


def compute() -> Iterator[None]:
    while True:
        yield


def stream() -> Iterator[None]:
    source, target = (np.full(_COPIED_BYTES // 8, fill, dtype=np.float64) for fill in (1.0, 0.0))
    while True:
        np.copyto(target, source)
        yield


def thrash() -> Iterator[None]:
    lines = np.zeros((last_level_bytes() // 64, 8))
    while True:
        lines[:, 0] += 1
        yield


_WORK: dict[str, Callable[[], Iterator[None]]] = {"computes": compute, "streams": stream, "thrashes": thrash}
KINDS = list(_WORK)


def last_level_bytes() -> int:
    """Return the size of the last-level cache."""
    try:
        return int(_LAST_LEVEL.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return _LAST_LEVEL_BYTES


class BusyProcess:
    """A process of its own that works on `processors`, if it is told to.

    Args:
        kind: What it does.
        processors: Where.
    """

    def __init__(self, kind: str, processors: set[int]) -> None:
        is_ready = _SPAWN.Event()
        self._process = _SPAWN.Process(target=disturb, args=(kind, processors, is_ready), daemon=True)
        self._process.start()
        while not is_ready.wait(timeout=1):
            assert self._process.is_alive(), f"the process that {kind} could not be started"
        self._send(signal.SIGSTOP)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Let it work inside `with`."""
        self._send(signal.SIGCONT)
        time.sleep(_SETTLING_SECONDS)
        try:
            yield
        finally:
            self._send(signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._process.join()

    def _send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def disturb(kind: str, processors: set[int], is_ready: Any) -> None:
    """Work until killed, or until the benchmark has ended, however it ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.sched_setaffinity(0, processors)
    work = _WORK[kind]()
    next(work)
    is_ready.set()
    for _ in work:
        pass


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


if __name__ == "__main__":
    main()
