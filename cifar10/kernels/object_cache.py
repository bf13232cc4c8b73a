"""Compiled kernels in files, so that a later process loads them instead of compiling them again.

They are in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), in cifar10/kernels; delete it to compile again. A
file is named by the SHA-256 of all that its content depends on. It begins with the SHA-256 of the rest, which is object
code. Since that is executed, only folders and files are read that belong to this user and that others cannot write to.
"""

import hashlib
import os
import stat
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cifar10.files import cache_folder, read_file

_DIGEST_BYTES = 32
_SUFFIX = ".o"
_MOST_FILES = 1000  # a network has tens of kernels, of some 50 kB each
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def key_of(facts: Sequence[str]) -> str:
    """Return the name for the object code that depends on `facts`, and on nothing else."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(f"{len(fact)}:".encode())
        digest.update(fact.encode())
    return digest.hexdigest()


def load(key: str) -> bytes | None:
    """Return the object code stored as `key`; None if there is none, it is damaged, or others could have written it."""
    path = cache_folder("kernels") / f"{key}{_SUFFIX}"
    try:
        if not (_is_ours(path.parent) and _is_ours(path)):
            return None
        content = read_file(path)
        os.utime(path)  # the files that were not used for longest are removed first
    except OSError:
        return None
    code = content[_DIGEST_BYTES:]
    return code if content[:_DIGEST_BYTES] == hashlib.sha256(code).digest() else None


def store(key: str, code: bytes) -> None:
    """Store object code as `key`, for this user only. Where this fails, as on a full disk, nothing is stored."""
    folder = cache_folder("kernels")
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            return
        # Not synchronised with the disk: the digest tells what a power cut has left incomplete.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, folder / f"{key}{_SUFFIX}")
        _remove_old(folder)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether it belongs to this user, and no other one may write to it."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE


def _remove_old(folder: Path) -> None:
    """Remove the files that were not used for longest, if there are too many."""
    files = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    if len(files) > _MOST_FILES:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[: len(files) - _MOST_FILES // 2]:
            os.unlink(entry.path)
