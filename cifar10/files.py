"""Write files atomically: a file gets its final name when it is complete and on disk, or not at all."""

import errno
import hashlib
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cifar10.errors import UserError, first_line

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_ALMOST_FULL = 50 * 2**20  # bytes free: less than a checkpoint may need
_TORCH_SAVE = ("PytorchStreamWriter", "inline_container.cc", "unexpected pos")
"""What torch.save says about a full disk, in a RuntimeError."""

TEMPORARY = r"\.{name}\.[0-9a-f]+\.tmp"
"""Regular expression of the names of the temporary files for a file called `name`."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and rename it to `path` if the block ends without an exception.

    A reader finds the old content or the new one, even after a power cut.

    Raises:
        UserError: The file could not be written. The previous content of `path` is unchanged.
    """
    temporary = temporary_path(path)
    try:
        with told_if_not_written(path):
            try:
                file = open(temporary, "xb")  # noqa: SIM115
            except OSError as error:
                raise _write_error(path, error) from error
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.is_dir():
                raise UserError(f"{path} is a folder, and a file of this name is to be written; rename it")
            try:
                os.replace(temporary, path)
                sync_folder(path.parent)
            except OSError as error:
                raise _write_error(path, error) from error
    finally:
        with suppress(OSError):  # if the folder may not be written any more, an exception says so already
            temporary.unlink(missing_ok=True)


@contextmanager
def told_if_not_written(path: Path) -> Iterator[None]:
    """Raise a UserError in place of an exception that a full or failing disk, or a missing folder, has caused."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_gone = isinstance(error, FileNotFoundError) and not path.parent.is_dir()
        disk_error = error if is_gone else _disk_error(error)
        if disk_error is None:
            raise
        raise _write_error(path, disk_error) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to `path`, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: Path, most_bytes: int = 2**26) -> bytes:
    """Return the content of a file; a pipe, which may block, and a device, which may have no end, are refused.

    Raises:
        OSError: It cannot be read, is no regular file, or is larger than `most_bytes`.
    """
    no_wait = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        if status.st_size > most_bytes:
            raise OSError(errno.EINVAL, f"it has more than {most_bytes / 2**20:.0f} MiB", str(path))
        return file.read(status.st_size)


def read_text(path: Path) -> str:
    """Return the content of a file in UTF-8, as `read_file` does.

    Raises:
        OSError: It cannot be read, is no regular file, or is too large.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_file(path).decode()


def link_or_copy(source: Path, path: Path) -> None:
    """Give `path` the content of `source`, atomically: as a hard link, or as a copy where that fails."""
    temporary = temporary_path(path)
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError:
        with told_if_not_written(path), source.open("rb") as content, atomic_write(path) as file:
            shutil.copyfileobj(content, file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # rename does nothing if both are already links to the same file


def temporary_path(path: Path) -> Path:
    """Return a new hidden name beside `path`, of at most 255 bytes."""
    return path.with_name(f".{path.name[:60]}.{uuid.uuid4().hex[:12]}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote `path`; none may be writing it now."""
    pattern = re.compile(TEMPORARY.format(name=re.escape(path.name[:60])))
    for name in os.listdir(path.parent):
        if pattern.fullmatch(name):
            path.with_name(name).unlink(missing_ok=True)


def make_output_folder(folder: Path) -> None:
    """Make `folder`, or report that it is not writable, before minutes are spent on its content.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be made: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output: {folder} cannot be written; name another folder")


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Make `folder` as `make_output_folder` does, and keep other processes from writing their results to it meanwhile.

    Raises:
        UserError: It cannot be made or written, or another process writes to it.
    """
    from filelock import FileLock, Timeout

    make_output_folder(folder)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process writes to {folder}; wait for it, or name another folder: --output") from None
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: others give up at once, and so never hold the deleted file
        lock.release()


def cache_folder(name: str) -> Path:
    """Return the folder `name` of this program in the user's cache folder: XDG_CACHE_HOME, else ~/.cache.

    Raises:
        FileNotFoundError: No home folder is known.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "no home folder is known; set XDG_CACHE_HOME", "~/.cache")
    return Path(base) / "cifar10" / name


def sync_folder(folder: Path) -> None:
    """Flush `folder` itself to disk, so that new names in it are kept after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(error: BaseException) -> BaseException | None:
    """Return the disk error that caused `error`; `error` itself if torch.save replaced it; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return cause
        cause = cause.__cause__ or cause.__context__
    return error if any(words in str(error) for words in _TORCH_SAVE) else None


def _write_error(path: Path, error: BaseException) -> UserError:
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else math.inf
    advice = ""
    if number == errno.EFBIG:
        advice = ": the limit for the size of a file, ulimit -f, is too low"
    elif not path.parent.is_dir():
        advice = f": there is no folder {path.parent}"
    elif number == errno.ENOSPC and _has_no_inodes(path.parent):
        advice = ": the file system holds as many files as it can; remove some"
    elif number in (errno.ENOSPC, errno.EDQUOT) or free < _ALMOST_FULL:
        advice = f"; {free / 2**20:.0f} MB are free: make room"
    text = f"{reason or first_line(error)}{advice}"
    return UserError(f"{path} could not be written ({text}); what was there before is unchanged")


def _has_no_inodes(folder: Path) -> bool:
    """Whether no further file can be created in the file system; some count none."""
    status = os.statvfs(folder)
    return status.f_files > 0 and status.f_favail == 0
