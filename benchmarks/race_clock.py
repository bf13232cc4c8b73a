"""The clock of a race: device events where there is a GPU."""

import time
from typing import Any, ClassVar

import torch


class Stopwatch:
    """A device event, or a clock reading where there is no GPU; adds up all that is measured with it."""

    total_ms: ClassVar[float] = 0.0

    def __init__(self, **_: Any) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        self._seconds = 0.0

    def record(self, *_: Any) -> None:
        if self._event is not None:
            self._event.record()
        self._seconds = time.perf_counter()

    def elapsed_time(self, end: "Stopwatch") -> float:
        """Return milliseconds from this to `end`; the device must be through with both."""
        if self._event is not None and end._event is not None:
            ms = float(self._event.elapsed_time(end._event))
        else:
            ms = 1000 * (end._seconds - self._seconds)
        Stopwatch.total_ms += ms
        return ms


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
