"""The images in a zip archive, inflated one by one, without unpacking it to disk.

Members may claim any name and size: a name only occurs in the results, and a member is refused by the size it claims,
beyond which nothing is inflated. The archive's directory is held in memory, so its size is limited, too.
"""

import os
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cifar10.errors import UserError, first_line
from cifar10.images.named_image import BeforeReading, NamedImage, unreadable
from cifar10.images.reading import ImageError, refuse_size
from cifar10.images.search import reason_against_member

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

MAX_DIRECTORY = 64 * 2**20
"""Bytes of the list of members: some 600,000 of them, which take 0.6 kB of memory each."""

_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06")
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_LONGEST_END = 65_536 + 22 + 20 + 56  # comment, end record, locator and record of zip64
_ENCRYPTED = 1  # bit of a member's flags


def is_zip(start: bytes) -> bool:
    """Return whether a file that begins with `start` is a zip archive, full or empty."""
    return start.startswith(_SIGNATURES)


def open_zip(path: Path) -> "ZipFile":
    """Open an archive.

    Raises:
        UserError: It is damaged, too large, or cannot be read.
    """
    from zipfile import BadZipFile, ZipFile

    try:
        if (size := _directory_size(path)) > MAX_DIRECTORY:
            raise UserError(
                f"{path} lists its members in {size / 2**20:.0f} MiB, and the limit is {MAX_DIRECTORY // 2**20} MiB; "
                "unpack it first, and name the folder"
            )
        archive = ZipFile(path)
        # What stands before the first member would be a larger archive, which was cut off within this one.
        if archive.infolist() and min(member.header_offset for member in archive.infolist()) > 0:
            raise BadZipFile("its end is missing")
        return archive
    except UserError:
        raise
    except (BadZipFile, OSError, ValueError, struct.error, NotImplementedError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a zip archive: {first_line(error)}") from None


def find(archive: "ZipFile", skipped: Counter[str]) -> Iterator[NamedImage]:
    """Yield the images in the order of the archive's directory."""
    for member in archive.infolist():
        if member.is_dir():
            continue
        if reason := _reason_against(member):
            skipped[reason] += 1
        elif member.flag_bits & _ENCRYPTED:
            yield unreadable(member.filename, "encrypted with a password; unpack the archive first")
        else:
            yield NamedImage(member.filename, partial(_read, archive, member))


def count(archive: "ZipFile") -> int:
    """Return the number of images."""
    return sum(not member.is_dir() and _reason_against(member) is None for member in archive.infolist())


def _reason_against(member: "ZipInfo") -> str | None:
    mode = member.external_attr >> 16
    return "link in an archive" if stat.S_ISLNK(mode) else reason_against_member(member.filename)


def _read(archive: "ZipFile", member: "ZipInfo", before_reading: BeforeReading) -> bytes:
    refuse_size(member.file_size)
    before_reading(member.file_size)
    try:
        with archive.open(member) as file:
            return file.read(member.file_size + 1)  # to the end, where the checksum is compared
    except Exception as error:  # for damaged archives, nearly anything
        raise ImageError(f"damaged in the archive: {first_line(error)[:100]}") from None


def _directory_size(path: Path) -> int:
    """Return the size of the list of members in bytes, as the record at the end of the file states it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - _LONGEST_END, 0))
        tail = file.read()
    found = tail.rfind(_END)
    if found < 0 or found + 16 > len(tail):
        return 0  # damaged: zipfile says so
    directory: int = struct.unpack_from("<I", tail, found + 12)[0]
    found_64 = tail.rfind(_END_64, 0, found)
    if found_64 >= 0 and found_64 + 48 <= len(tail):
        directory = max(directory if directory != 0xFFFFFFFF else 0, *struct.unpack_from("<Q", tail, found_64 + 40))
    return min(directory, size)
