"""Signals that end the program: every `finally` runs, and one line states what was interrupted and what is kept.

The first signal raises `Stopped`; a block may instead handle it (`taken_by`) or delay it (`held`). A second signal of
the same kind ends the process at once. A signal that is ignored when the program starts, as SIGHUP is under `nohup`,
stays ignored. Python lets only the main thread set handlers: in other threads these functions have no effect.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that end the program. Schedulers send SIGUSR1 or SIGUSR2 some time before they end a job."""

_ECHO_SECONDS = 1.0  # `timeout` signals the process, then its group: the process receives the same signal twice

Action = Callable[[int, int], None]
"""Called with the signal number and how many signals of this number have come: 1, 2, ..."""


class Stopped(SystemExit):
    """A signal has stopped the program. The exit code is 128 + signal number.

    Args:
        number: Signal number.
        kept: What was interrupted and what is kept; the end of the message.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(128 + number)
        self.number = number
        self.kept = kept

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}{self.kept and ' '}{self.kept}"


def _unwind(number: int, count: int) -> None:
    """Raise `Stopped` at the first signal; at the second, exit at once, since a `finally` may take long."""
    if count > 1:
        os._exit(128 + number)
    _received.stop = Stopped(number)
    raise _received.stop


class _Received:
    """The signals received so far; one object for the process."""

    def __init__(self) -> None:
        self.is_listening = False
        self.action: Action = _unwind
        self.clear()

    def clear(self) -> None:
        self.stop: Stopped | None = None
        self.counts: dict[int, int] = {}
        self.came_at: dict[int, float] = {}

    def receive(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.came_at.get(number, -_ECHO_SECONDS) < _ECHO_SECONDS:
            return
        is_already_ending = bool(self.counts) and number not in self.counts
        self.came_at[number] = now
        self.counts[number] = self.counts.get(number, 0) + 1
        if not is_already_ending:
            self.action(number, self.counts[number])


_received = _Received()


@contextmanager
def listening() -> Iterator[None]:
    """Handle the signals in `ENDING` within this block, and restore the previous handlers after it."""
    if _received.is_listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    _received.clear()
    _received.is_listening = True
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _received.receive)
        yield
    finally:
        _received.is_listening = False
        for number, handler in before.items():
            if handler is not None:  # None: set by C code; it was not replaced
                signal.signal(number, handler)


def stopped_by() -> Stopped | None:
    """Return the `Stopped` that a signal has raised, if any: a library may have replaced or swallowed it."""
    return _received.stop


def raise_again() -> None:
    """Raise `Stopped` again if a library has swallowed it, as some do on import."""
    if _received.is_listening and _received.stop is not None:
        raise _received.stop


@contextmanager
def taken_by(action: Action) -> Iterator[None]:
    """Call `action` for each signal within this block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raise_again()
    before, _received.action = _received.action, action
    try:
        yield
    finally:
        _received.action = before


@contextmanager
def held() -> Iterator[None]:
    """Delay signals to the end of this block, which must be short."""
    waiting: list[int] = []

    def wait(number: int, count: int) -> None:
        if count > 1:
            _unwind(number, count)
        waiting.append(number)

    with taken_by(wait):
        yield
    if waiting:
        _unwind(waiting[0], count=1)


@contextmanager
def if_stopped(kept: str) -> Iterator[None]:
    """Add `kept`, what was interrupted and what is kept, to a `Stopped` of this block that has no such text."""
    try:
        raise_again()
        yield
    except Stopped as stop:
        stop.kept = stop.kept or kept
        raise
