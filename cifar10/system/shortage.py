"""Convert errors of libraries to user errors: memory or threads ran out, another process has ended.

Libraries report it as errors of many types; here it becomes one `UserError` with the setting to lower.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cifar10.errors import UserError

_AMOUNT = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?([kmgtpe]?i?b|bytes)", re.IGNORECASE)
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|out of memory|not enough memory|unable to allocate|bad_alloc|"
    "storage size calculation overflowed|failed to map segment|invalid buffer size|_STATUS_ALLOC_FAILED|"
    "could not create a memory object|could not create a primitive",
    re.IGNORECASE,
)
_THREADS = "can't start new thread"
_PEER = re.compile(
    r"gloo.*(?:closed by peer|reset by peer|broken pipe|connection refused)|"
    r"remote process exited|ncclRemoteError|ncclSystemError",
    re.IGNORECASE | re.DOTALL,
)
_ERRORS = (MemoryError, RuntimeError, OSError, ImportError)


class PeerGoneError(UserError):
    """Another process of the run has ended, without which this one cannot go on."""


def shortage(error: BaseException) -> str | None:
    """Return what has run out if `error` says so, else None."""
    text = str(error)
    if isinstance(error, UserError) or not isinstance(error, _ERRORS):
        return None
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        amount = _AMOUNT.search(text)
        return "memory ran out" + (f" ({_gigabytes(*amount.groups())} were asked for at once)" if amount else "")
    return "the system allows no more threads or processes" if _THREADS in text else None


@contextmanager
def told_if_short(advice: str) -> Iterator[None]:
    """Turn what says that memory or threads ran out within this block into an error for the user.

    Args:
        advice: The remedy, known where the block is: the settings to lower, with their values.

    Raises:
        UserError: Memory or threads ran out.
    """
    try:
        yield
    except _ERRORS as error:
        ran_out = shortage(error)
        if ran_out is None:
            raise
        raise UserError(f"{ran_out}; {advice}") from error


@contextmanager
def told_if_alone(what_is_kept: Callable[[], str]) -> Iterator[None]:
    """Turn what says that another process of the run has gone into an error for the user.

    Args:
        what_is_kept: Returns the end of its line: what is kept, and the remedy.

    Raises:
        PeerGoneError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not _PEER.search(str(error)):
            raise
        raise PeerGoneError(
            f"another process of this run has ended: killed, out of memory, or by an error of its own, {what_is_kept()}"
        ) from error


def _gigabytes(number: str, unit: str) -> str:
    factor = 1 if unit.lower() == "bytes" else _BYTES[unit.upper().rstrip("IB")]
    return f"{float(number) * factor / 1e9:,.1f} GB"
