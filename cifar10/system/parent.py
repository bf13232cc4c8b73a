"""End a process together with the one that has started it."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let Linux send this process a signal when its parent ends, also if that is killed; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
