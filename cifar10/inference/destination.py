"""Output destinations of results: stdout, a file written atomically, or a pipe or device.

Checked before any work begins.
"""

import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from cifar10.errors import UsageError, UserError
from cifar10.files import atomic_write, temporary_path
from cifar10.images.search import SUFFIXES

Format = Literal["table", "csv", "jsonl", "parquet"]

_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".txt": "table",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_OWN_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_OWN_STREAM = re.compile(r"/dev/(stdin|stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@dataclass(frozen=True)
class Destination:
    """A file, pipe or device, or stdout if there is none, and how to write to it."""

    path: Path | None
    format: Format
    descriptor: int | None = None
    """The open stream of this process that `path` means, as /dev/stderr does."""
    is_stream: bool = False
    """Rows are written to it as they come; there is nothing to be made whole."""

    def is_terminal(self) -> bool:
        """Tell whether rows scroll over a screen."""
        if self.path is None:
            return sys.stdout.isatty()
        if self.descriptor is not None:
            return os.isatty(self.descriptor)
        return str(self.path).startswith(("/dev/tty", "/dev/pts/"))


def choose_destination(output: str | None, output_format: str | None) -> Destination:
    """Return what `--output` and `--format` mean together; it can be written to as far as can be known.

    `-` and /dev/stdout are stdout. A pipe, a device or another stream such as /dev/stderr is written to as rows come.

    Raises:
        UsageError: They do not fit together, or no file can be made there.
    """
    chosen = _known_format(output_format)
    if output is None or output == "-":
        return _standard_output(chosen)
    if (descriptor := _own_stream(output)) is not None:
        return _stream_of_this_process(output, descriptor, chosen)
    path = Path(os.path.realpath(output))  # a link stays one, and what it points to is replaced
    suffix_format = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if _is_pipe_or_device(path):
        _refuse_closed(path, output)
        return Destination(path, chosen or suffix_format or "table", is_stream=True)
    final = chosen or suffix_format
    if final is None:
        known = ", ".join(_FORMAT_OF_SUFFIX)
        raise UsageError(f"--output={output}: its suffix names no format ({known}); say which with --format")
    if path.suffix.lower() in (*SUFFIXES, ".ckpt") and os.path.exists(path):  # which is false for an impossible name
        raise UsageError(f"--output={output} is there already, and no result by its name; name another file")
    _refuse_unwritable(path, output)
    return Destination(path, final)


@contextmanager
def open_destination(destination: Destination) -> Iterator[BinaryIO]:
    """Give a file to write to: one that appears when it is whole, or the stream itself. Not for stdout.

    Raises:
        UserError: The disk is full or gives up, or nobody reads the pipe any more.
    """
    assert destination.path is not None
    if not destination.is_stream:
        with atomic_write(destination.path) as whole:
            yield whole
        return
    try:
        target = destination.path if destination.descriptor is None else os.dup(destination.descriptor)
        with open(target, "wb") as stream:
            yield stream
    except OSError as error:
        if error.errno not in (*_DISK_TROUBLE, errno.EPIPE):
            raise
        raise UserError(f"{destination.path} could not be written: {error.strerror}") from error


def _known_format(name: str | None) -> Format | None:
    known: Format
    for known in get_args(Format):
        if name == known:
            return known
    if name is None:
        return None
    raise UsageError(f"--format={name} is not known; choose {', '.join(get_args(Format))}")


def _standard_output(chosen: Format | None) -> Destination:
    if chosen == "parquet":
        raise UsageError("parquet is not for reading on a screen; name a file: --output=FILE.parquet")
    return Destination(None, chosen or "table")


def _own_stream(output: str) -> int | None:
    """Return the descriptor that a name such as /dev/stdout, /dev/fd/63 or /proc/self/fd/1 means in this process.

    Opening the name instead would empty a file that the shell has redirected the stream to.
    """
    found = _OWN_STREAM.fullmatch(os.path.abspath(output))
    if found is None:
        return None
    return _OWN_STREAMS[found[1]] if found[1] else int(found[2])


def _stream_of_this_process(output: str, descriptor: int, chosen: Format | None) -> Destination:
    try:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise UsageError(f"--output={output}: this stream is not open") from None
    if mode == os.O_RDONLY:
        raise UsageError(f"--output={output}: this stream is open for reading only")
    if descriptor == 1 and chosen != "parquet":
        return _standard_output(chosen)
    if chosen == "parquet" and os.isatty(descriptor):
        return _standard_output(chosen)
    return Destination(Path(output), chosen or "table", descriptor, is_stream=True)


def _is_pipe_or_device(path: Path) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _refuse_closed(path: Path, output: str) -> None:
    if not os.access(path, os.W_OK):
        raise UsageError(f"--output={output} cannot be written: {os.strerror(errno.EACCES)}")


def _refuse_unwritable(path: Path, output: str) -> None:
    try:
        if path.is_dir():
            raise UsageError(f"--output={output} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise UsageError(f"--output={output} is a socket or a disk; name a file, a pipe, or /dev/stdout")
        if not path.parent.is_dir():
            raise UsageError(f"--output={output}: there is no folder {path.parent}; make it first")
        probe = temporary_path(path)
        with open(probe, "xb"):
            pass
        os.unlink(probe)
    except OSError as error:
        raise UsageError(f"--output={output} cannot be written: {error.strerror}") from None
