"""The atomic writer: a file gets its final name when it is complete and on disk, or not at all."""

import errno
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cifar10.errors import UserError, first_line

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_ALMOST_FULL = 50 * 2**20  # bytes free: less than a checkpoint may need
_TORCH_SAVE = ("PytorchStreamWriter", "unexpected pos")  # how torch.save reports a full disk, as a RuntimeError

TEMPORARY = r"\.{name}\.[0-9a-f]+\.tmp"
"""Regular expression of the names of the temporary files for a file called `name`."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and rename it to `path` if the block ends without an exception.

    A reader sees the old content or the new one, also after a power cut.

    Raises:
        UserError: The file could not be written. The previous content of `path` is unchanged.
    """
    temporary = temporary_path(path)
    try:
        try:
            file = open(temporary, "xb")  # noqa: SIM115
        except OSError as error:
            raise _write_error(path, error) from error
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        disk_error = _disk_error(error)
        if disk_error is None:
            raise
        raise _write_error(path, disk_error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to `path`, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def link_or_copy(source: Path, path: Path) -> None:
    """Give `path` the content of `source`, atomically: as a hard link, or as a copy where there are no hard links."""
    temporary = temporary_path(path)
    try:
        os.link(source, temporary)
    except OSError:
        with source.open("rb") as content, atomic_write(path) as file:
            shutil.copyfileobj(content, file)
        return
    try:
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)  # rename does nothing if both are already links to the same file


def temporary_path(path: Path) -> Path:
    """Return a new hidden name beside `path`, of at most 255 bytes."""
    return path.with_name(f".{path.name[:60]}.{uuid.uuid4().hex[:12]}.tmp")


def sync_folder(folder: Path) -> None:
    """Flush `folder` itself to disk, so that new names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(error: BaseException) -> BaseException | None:
    """Return the error of the disk that `error` is, or that torch.save has turned into it; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return cause
        cause = cause.__cause__ or cause.__context__
    return error if any(words in str(error) for words in _TORCH_SAVE) else None


def _write_error(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path} could not be written ({_reason(error, path.parent)}); what was there before is unchanged")


def _reason(error: BaseException, folder: Path) -> str:
    number = error.errno if isinstance(error, OSError) else None
    text = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    free = shutil.disk_usage(folder).free if folder.is_dir() else math.inf
    if number == errno.EFBIG:
        return f"{text}: the limit for the size of a file, ulimit -f, is too low"
    if number in (errno.ENOSPC, errno.EDQUOT) or free < _ALMOST_FULL:
        return f"{text}; {free / 2**20:.0f} MB are free: make room"
    return text
