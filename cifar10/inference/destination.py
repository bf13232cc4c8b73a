"""Output destinations of results: stdout, a file written atomically, or a pipe or device.

Checked before any work begins.
"""

import errno
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from cifar10.errors import UsageError, UserError
from cifar10.files import DISK_ERRORS, atomic_write, temporary_path
from cifar10.images.search import SUFFIXES

Format = Literal["table", "csv", "jsonl", "parquet"]

NO_RECEIPTS = "--receipts: a table has no columns for them; choose --format=csv, jsonl or parquet"

_FORMATS: tuple[Format, ...] = get_args(Format)
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".txt": "table",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
BEING_WRITTEN = "is being written by another process; wait for it, or name another file"
_NO_RESULTS = frozenset(
    (*SUFFIXES, ".ckpt", ".onnx", ".pt", ".pth", ".safetensors", ".npy", ".npz", ".db", ".yaml", ".zip", ".tar", ".gz")
)
_UNFINISHED = ".partial"
_LONGEST_NAME = 255  # bytes, of most file systems
_OWN_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_OWN_STREAM = re.compile(r"/dev/(stdin|stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")


@dataclass(frozen=True)
class Destination:
    """Where results are written, and in which format."""

    path: Path | None
    """A file, pipe or device; None: stdout."""
    format: Format
    descriptor: int | None = None
    """The open stream of this process that `path` names, as /dev/stderr does."""
    is_stream: bool = False
    """Rows are written as soon as they are computed, and stay if an error follows; a file is written atomically."""

    def is_terminal(self) -> bool:
        """Return whether rows are printed on a terminal."""
        if self.path is None:
            return sys.stdout.isatty()
        if self.descriptor is not None:
            return os.isatty(self.descriptor)
        return str(self.path).startswith(("/dev/tty", "/dev/pts/"))


def choose_destination(output: str | None, output_format: str | None, inputs: Iterable[str | None] = ()) -> Destination:
    """Return the destination for `--output` and `--format`, after a check that it can be written to.

    `inputs` are what the command reads: none of them is replaced.

    `-` and /dev/stdout are stdout. To a pipe, a device or another stream, such as /dev/stderr, rows are written as soon
    as they are computed.

    Raises:
        UsageError: The two do not fit together, or no file can be created there.
    """
    chosen = next((known for known in _FORMATS if known == output_format), None)
    if chosen != output_format:
        raise UsageError(f"--format={output_format} is not known; choose {', '.join(_FORMATS)}")
    if output is None or output == "-":
        return _standard_output(chosen)
    if (descriptor := _own_stream(output)) is not None:
        return _stream_of_this_process(output, descriptor, chosen)
    path = Path(os.path.realpath(output))  # a link is kept, and its target replaced
    format_of_suffix = chosen or format_of(str(path))
    if os.path.exists(path) and (path.is_fifo() or path.is_char_device()):
        if not os.access(path, os.W_OK):
            raise UsageError(f"--output={output} cannot be written: {os.strerror(errno.EACCES)}")
        return Destination(path, format_of_suffix or "table", is_stream=True)
    if format_of_suffix is None:
        known = ", ".join(_FORMAT_OF_SUFFIX)
        raise UsageError(f"--output={output}: its suffix names no format ({known}); choose one with --format")
    if any(name and _is_same_file(path, name) for name in inputs):
        raise UsageError(f"--output={output} is read by this command, and would be replaced; name another file")
    if path.suffix.lower() in _NO_RESULTS and os.path.exists(path):  # which is false for an impossible name
        raise UsageError(f"--output={output} exists already, and its suffix is not that of a result; name another file")
    _refuse_unwritable(path, output)
    return Destination(path, format_of_suffix)


def _is_same_file(path: Path, name: str) -> bool:
    try:
        return path.is_file() and path.samefile(name)
    except (OSError, ValueError):  # there is no file of one of the names, and perhaps cannot be
        return False


def format_of(name: str) -> Format | None:
    """Return the format that the suffix of a file's name stands for, if any."""
    return _FORMAT_OF_SUFFIX.get(os.path.splitext(name)[1].lower())


@contextmanager
def open_destination(destination: Destination) -> Iterator[BinaryIO]:
    """Yield a file to write to, which appears when it is complete, or the stream itself. Not for stdout.

    Raises:
        UserError: The disk is full or fails, or the reader of the pipe has ended.
    """
    assert destination.path is not None
    if not destination.is_stream:
        with atomic_write(destination.path) as file:
            yield file
        return
    try:
        target = destination.path if destination.descriptor is None else os.dup(destination.descriptor)
        with open(target, "wb") as stream:
            yield stream
    except OSError as error:
        if error.errno not in (*DISK_ERRORS, errno.EPIPE):
            raise
        raise UserError(f"{destination.path} could not be written: {error.strerror}") from error


def partial_path(path: Path) -> Path:
    """Return where the rows of the result file `path` are kept until it is complete."""
    name = f"{path.name}{_UNFINISHED}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{path.name[:50]}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}{_UNFINISHED}"
    return path.with_name(name)


def refuse_unfinished(path: Path, resume: bool) -> None:
    """Raise a UsageError if there are rows of another run for `path`, unless they are to be continued."""
    partial = partial_path(path)
    if os.path.lexists(partial) and not partial.is_file():
        raise UsageError(f"--output={path}: {partial}, where rows are kept until all are there, is no file; move it")
    if resume or not partial.exists():
        return
    if _is_locked(partial):
        raise UsageError(f"--output={path}: {partial} {BEING_WRITTEN}")
    raise UsageError(
        f"--output={path}: an interrupted run has kept its rows in {partial}; continue it with --resume, or delete "
        "that file to start again"
    )


def _is_locked(partial: Path) -> bool:
    """Whether another process has locked a file, as one that writes rows does."""
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def _standard_output(chosen: Format | None) -> Destination:
    if chosen == "parquet":
        raise UsageError("parquet is not for reading on a screen; name a file: --output=FILE.parquet")
    return Destination(None, chosen or "table")


def _own_stream(output: str) -> int | None:
    """Return the descriptor that a name such as /dev/stdout, /dev/fd/63 or /proc/self/fd/1 has in this process.

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
    if os.isatty(descriptor) if chosen == "parquet" else descriptor == 1:
        return _standard_output(chosen)
    return Destination(Path(output), chosen or "table", descriptor, is_stream=True)


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
