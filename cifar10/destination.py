"""Where results go: stdout, or a file that bears its name only once it is whole. Checked before any work begins."""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from cifar10.errors import Misuse, UserError

Format = Literal["table", "csv", "jsonl", "parquet"]

_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".txt": "table",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@dataclass(frozen=True)
class Destination:
    """A file, or stdout if there is none, and how to write to it."""

    path: Path | None
    format: Format


def choose_destination(output: str | None, output_format: str | None) -> Destination:
    """Return what `--output` and `--format` mean together; the file can be written as far as can be known.

    Raises:
        Misuse: They do not fit together, or no file can be made there.
    """
    chosen = _known_format(output_format)
    if output is None:
        if chosen == "parquet":
            raise Misuse("parquet is not for reading on a screen; name a file: --output=FILE.parquet")
        return Destination(None, chosen or "table")
    path = Path(os.path.realpath(output))  # a link stays one, and what it points to is replaced
    if chosen is None and path.suffix.lower() not in _FORMAT_OF_SUFFIX:
        known = ", ".join(_FORMAT_OF_SUFFIX)
        raise Misuse(f"--output={output}: its suffix names no format ({known}); say which with --format")
    _refuse_unwritable(path, output)
    return Destination(path, chosen or _FORMAT_OF_SUFFIX[path.suffix.lower()])


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; after the block it is at `path`, or nothing is if the block raised.

    Raises:
        UserError: The disk is full or gives up. What was at `path` before is untouched.
    """
    temporary = _temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise UserError(f"{path} could not be written: {error.strerror}; nothing was left there") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _known_format(name: str | None) -> Format | None:
    known: Format
    for known in get_args(Format):
        if name == known:
            return known
    if name is None:
        return None
    raise Misuse(f"--format={name} is not known; choose {', '.join(get_args(Format))}")


def _refuse_unwritable(path: Path, output: str) -> None:
    try:
        if path.is_dir():
            raise Misuse(f"--output={output} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise Misuse(f"--output={output} is no regular file; leave --output out to write to stdout")
        if not path.parent.is_dir():
            raise Misuse(f"--output={output}: there is no folder {path.parent}; make it first")
        probe = _temporary_name(path)
        with open(probe, "xb"):
            pass
        os.unlink(probe)
    except OSError as error:
        raise Misuse(f"--output={output} cannot be written: {error.strerror}") from None


def _temporary_name(path: Path) -> Path:
    """Return a name beside `path`, of at most 255 bytes if `path` has one, that no search for images finds."""
    return path.with_name(f".{path.name[:60]}.{os.getpid()}.partial")


def sync_folder(folder: Path) -> None:
    """Let new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
