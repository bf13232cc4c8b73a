"""Signals that end the program: every `finally` runs, and one line states what was interrupted and what is kept.

The first signal raises `Stopped` where the program is; a block may instead take it itself (`taken_by`), or let it wait
(`held`). A second one of the same kind ends the process at once. A signal that is ignored when the program starts, as
SIGHUP is under `nohup`, stays ignored. Python lets only the main thread set handlers: in any other one, nothing here
has an effect, and the program that owns the main thread decides about signals.
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

_ECHO_SECONDS = 1.0  # `timeout` signals the process and then its group: the process gets the same signal twice

Action = Callable[[int, int], None]
"""Called with the signal's number and how many of its kind have come: 1, 2, ..."""


class Stopped(SystemExit):
    """A signal ended what was going on. The exit code is 128 + signal number.

    Args:
        number: The signal's.
        kept: What was interrupted and what is kept; the end of the line that the user sees.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(128 + number)
        self.number = number
        self.kept = kept

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"stopped by {name}{self.kept and ' '}{self.kept}"


def _unwind(number: int, count: int) -> None:
    """Raise at the first signal; at the second end at once: a `finally` may be what takes so long."""
    if count > 1:
        os._exit(128 + number)
    _received.stop = Stopped(number)
    raise _received.stop


class _Received:
    """What has come so far. Signals belong to the process, and so does this."""

    def __init__(self) -> None:
        self.is_listening = False
        self.action: Action = _unwind
        self.stop: Stopped | None = None
        self.counts: dict[int, int] = {}
        self.came_at: dict[int, float] = {}

    def begin(self) -> None:
        self.is_listening = True
        self.stop = None
        self.counts.clear()
        self.came_at.clear()

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
    """Handle the signals in `ENDING` within this block, and put back what was there after it."""
    if _received.is_listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    _received.begin()
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _received.receive)
        yield
    finally:
        _received.is_listening = False
        for number, handler in before.items():
            if handler is not None:  # None: set by C code, and never replaced
                signal.signal(number, handler)


def stopped_by() -> Stopped | None:
    """Return what a signal has raised, if one has: what came of it on the way up may be another exception, or none."""
    return _received.stop


def _raise_again() -> None:
    """Raise what a library has swallowed, as some do on import: who unwinds does not begin anything new."""
    if _received.is_listening and _received.stop is not None:
        raise _received.stop


@contextmanager
def taken_by(action: Action) -> Iterator[None]:
    """Within this block, let `action` decide what a signal does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _raise_again()
    before, _received.action = _received.action, action
    try:
        yield
    finally:
        _received.action = before


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until this block, which is short, has done all it does."""
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
    """Say `kept`, what was interrupted and what is kept, if a signal ends this block; an inner block's word counts."""
    try:
        _raise_again()
        yield
    except Stopped as stop:
        stop.kept = stop.kept or kept
        raise
