"""Obtain a published archive: look whether its files are there and right."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cifar10.constants import Archive
from cifar10.data.contract import DataError


def obtain(archive: Archive, root: Path, sources: Sequence[str] = ()) -> None:
    """Make sure that `root/archive.folder` holds the archive's files."""
    if not is_complete(archive, root / archive.folder):
        raise DataError(f"{root / archive.folder} does not hold the files of {archive.name}")


def is_complete(archive: Archive, folder: Path) -> bool:
    """Say whether every member is in `folder` with its MD5."""
    return all(_has_md5(folder / name, md5) for name, md5 in archive.members)


def _has_md5(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
