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
    """Stdout: results. After the first error, what is still to come is dropped, so that no second one follows."""

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
    """Stderr: words for people. Where nobody can read them, they are lost, and nothing else is."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def restart_in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale says otherwise, so that names of files and classes survive.

    The mode cannot be switched on later (PEP 540). It is handed on to processes that this one starts.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def secure_standard_streams() -> None:
    """Replace the streams of this process, which write UTF-8 whatever the locale says; once is enough.

    A file name that is no UTF-8 goes out as the bytes it came in as. Streams that somebody has put in their place, such
    as a notebook's, stay.
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
    os.set_blocking(descriptor, True)  # another process may have changed that for all that share it
    binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - it stays open
    return kind(binary, encoding="utf-8", errors="surrogateescape", line_buffering=line_buffering)


def _occupy_closed_descriptors() -> None:
    """Open what the shell has closed: else the next file would get its number, and libraries would write into it.

    Writing to a closed stdout fails; so does writing to what takes its place.
    """
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_WRONLY if descriptor == _STDERR else os.O_RDONLY)  # takes the lowest free number
            os.set_inheritable(descriptor, True)
