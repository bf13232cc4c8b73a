"""Compiled kernels in files, so that a later process loads them instead of compiling them again.

They are in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), in cifar10/kernels; delete it to compile again. A
file is named by the SHA-256 of all that its content depends on, its key. It begins with the SHA-256 of the key and of
the rest, which is object code. Since that is executed, the folder and the file must belong to this user, be no links,
and others must not be able to write to them.
"""

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from cifar10.files import cache_folder

_DIGEST_BYTES = 32
_MOST_BYTES = 2**26
_MOST_FILES = 1000  # a network has tens of kernels, of some 10 kB each
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OURS = re.compile(r"[0-9a-f]{64}\.o|\.[0-9a-f]{32}\.tmp")  # names of files


def key_of(facts: Sequence[str]) -> str:
    """Return the name for the object code that depends on `facts`, and on nothing else."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(f"{len(fact)}:".encode())
        digest.update(fact.encode())
    return digest.hexdigest()


def load(key: str) -> bytes | None:
    """Return the object code stored as `key`; None if there is none, it is damaged, or others could have written it."""
    try:
        with _folder() as folder:
            content = _content(_name(key), folder)
            code = content[_DIGEST_BYTES:]
            if content[:_DIGEST_BYTES] != _digest(key, code):
                return None
            with suppress(OSError):  # the files that were not used for longest are removed first
                os.utime(_name(key), dir_fd=folder)
            return code
    except OSError:
        return None


def store(key: str, code: bytes) -> None:
    """Store object code as `key`, for this user only. Where this fails, as on a full disk, nothing is stored."""
    temporary = f".{uuid.uuid4().hex}.tmp"
    try:
        cache_folder("kernels").mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder() as folder:
            try:
                # Not synchronised with the disk: the digest tells what a power cut has left incomplete.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with open(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(_digest(key, code) + code)
                os.replace(temporary, _name(key), src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(temporary, dir_fd=folder)
            _remove_old(folder)
    except OSError:
        pass


@contextmanager
def _folder() -> Iterator[int]:
    """Open the folder, in which files are found by this descriptor, whatever takes its place meanwhile.

    Raises:
        OSError: It is not there, or not only ours.
    """
    folder = os.open(cache_folder("kernels"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _demand_ours(os.fstat(folder))
        yield folder
    finally:
        os.close(folder)


def _content(name: str, folder: int) -> bytes:
    """Return the content of a file; a pipe does not block.

    Raises:
        OSError: It cannot be read, is no regular file, is too large, or not only ours.
    """
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        _demand_ours(status)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(errno.EINVAL, "it is not a file of object code", name)
        return file.read(status.st_size)


def _demand_ours(status: os.stat_result) -> None:
    """Raise OSError unless a file or folder belongs to this user, and no other one may write to it."""
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(errno.EPERM, "others may have written it")


def _name(key: str) -> str:
    return f"{key}.o"


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()


def _remove_old(folder: int) -> None:
    """Remove the files that were not used for longest, if there are too many."""
    names = [name for name in os.listdir(folder) if _OURS.fullmatch(name)]
    if len(names) <= _MOST_FILES:
        return
    names.sort(key=lambda name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime)
    for name in names[: len(names) - _MOST_FILES // 2]:
        os.unlink(name, dir_fd=folder)
