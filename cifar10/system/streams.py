"""Robust standard streams: stderr may be full, closed or missing; stdout fails with one error."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_STDIN, _STDOUT, _STDERR = 0, 1, 2

STDOUT_NAME = "stdout"
"""File name in the OSError of a write to stdout."""


class _Essential(io.TextIOWrapper):
    """Stdout: results. After the first error, further output is dropped, so that no second error follows."""

    has_failed = False

    def write(self, text: str, /) -> int:
        with self._named():
            return len(text) if self.has_failed else super().write(text)

    def flush(self) -> None:
        with self._named():
            if not self.has_failed:
                super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.has_failed = True
            error.filename = STDOUT_NAME
            raise


class _Optional(io.TextIOWrapper):
    """Stderr: messages. Errors of writing are ignored."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def print_message(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def restart_in_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale has another encoding, so that names of files and classes are kept.

    The mode cannot be switched on later (PEP 540). Processes that this one starts inherit it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def secure_standard_streams() -> None:
    """Replace the standard streams of this process by streams that write UTF-8 in any locale; call it once.

    A file name that is no UTF-8 is written as the bytes it was read from. Streams that have been replaced before, such
    as a notebook's, are not changed.
    """
    _occupy_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stdout is sys.__stdout__:
        sys.stdout = _secured(_Essential, _STDOUT, sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _secured(_Optional, _STDERR, sys.__stderr__)


def _secured(kind: type[io.TextIOWrapper], descriptor: int, former: TextIO | None) -> TextIO:
    line_buffering = descriptor == _STDERR
    if isinstance(former, io.TextIOWrapper):
        with contextlib.suppress(OSError):
            former.flush()
        line_buffering |= former.line_buffering or former.write_through
    os.set_blocking(descriptor, True)  # another process that shares it may have changed this
    binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - it stays open
    return kind(binary, encoding="utf-8", errors="surrogateescape", line_buffering=line_buffering)


def _occupy_closed_descriptors() -> None:
    """Open descriptors that the shell has closed: else the next file would get such a number, and be written to."""
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # It takes the lowest free number. Writing to stdout fails, as it does when it is closed.
            os.open(os.devnull, os.O_WRONLY if descriptor == _STDERR else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
