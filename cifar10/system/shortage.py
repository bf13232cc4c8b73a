"""Recognise errors of libraries: memory or threads ran out, another process has ended.

Libraries raise many types; `told_if_short` converts them to one `UserError` with the setting to lower.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cifar10.errors import UserError

_AMOUNT = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) ?([kmgtpe]?i?b|bytes)", re.IGNORECASE)
_BYTES = {"BYTES": 1, "": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}
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


def shortage(error: BaseException) -> str | None:
    """Return the message for `error` if memory or threads ran out, else None."""
    text = str(error)
    if isinstance(error, UserError) or not isinstance(error, _ERRORS):
        return None
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        if (amount := _AMOUNT.search(text)) is None:
            return "memory ran out"
        num_bytes = float(amount[1]) * _BYTES[amount[2].upper().rstrip("IB")]
        return f"memory ran out ({num_bytes / 1e9:,.1f} GB were requested at once)"
    return "the system allows no more threads or processes" if _THREADS in text else None


@contextmanager
def told_if_short(advice: str) -> Iterator[None]:
    """Convert errors of this block that report a lack of memory or threads.

    Args:
        advice: The remedy: the settings to lower, with their values.

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


def is_peer_lost(error: BaseException) -> bool:
    """Return whether `error` reports that another process of the run has ended."""
    return isinstance(error, RuntimeError) and _PEER.search(str(error)) is not None
