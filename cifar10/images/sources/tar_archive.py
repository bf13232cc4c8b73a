"""The images in a tar archive, plain or compressed (gzip, bzip2, xz, zstd), read once from the front to the end.

Nothing is unpacked to disk. Members may claim any name and size: a name only occurs in the results, a member that is
too large is passed by, and so is the memory that its headers claim.
"""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from cifar10.errors import first_line
from cifar10.images.named_image import BeforeReading, NamedImage, unreadable
from cifar10.images.reading import ImageError, refuse_size
from cifar10.images.search import reason_against_member

_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_MAX_HEADER = 2**20  # bytes that the headers of a member may take
_STEP = 2**18  # bytes that are skipped at a time
_END = bytes(tarfile.BLOCKSIZE)


def may_be_tar(start: bytes) -> bool:
    """Return whether a file that begins with `start` is a tar archive or is compressed, as they often are."""
    if start.startswith((_GZIP, _BZIP2, _XZ, _ZSTD)):
        return True
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def find(path: Path, skipped: Counter[str]) -> Iterator[NamedImage]:
    """Yield the images in the order of the archive. Where it is damaged, its own name with the reason is the last."""
    found = 0
    try:
        with _open(path) as file:
            stream = _Forward(file)
            for image in _members(stream, skipped):
                found += 1
                yield image
            if stream.last != _END:
                yield unreadable(path.name, f"damaged: the archive ends early, after {found:,} images")
    except Exception as error:  # for damaged archives, each decompressor raises its own
        reason = first_line(error)[:100]
        yield unreadable(path.name, f"damaged or not a tar archive: {reason}, after {found:,} images")


def _members(stream: "_Forward", skipped: Counter[str]) -> Iterator[NamedImage]:
    file = cast(IO[bytes], stream)
    archive: Any = tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8", errors="surrogateescape")
    while (member := archive.next()) is not None:
        archive.members.clear()  # it would keep all of them
        if member.isdir():
            continue
        if not member.isfile():
            skipped["link in an archive" if member.islnk() or member.issym() else "not a regular file"] += 1
        elif reason := reason_against_member(member.name):
            skipped[reason] += 1
        else:
            yield _image(archive, member, stream)


def _image(archive: tarfile.TarFile, member: tarfile.TarInfo, stream: "_Forward") -> NamedImage:
    try:
        refuse_size(member.size)
    except ImageError as error:
        return unreadable(member.name, str(error))
    file = archive.extractfile(member)
    assert file is not None
    with stream.allowing(member.size):
        data = file.read()

    def read(before_reading: BeforeReading) -> bytes:
        return data

    return NamedImage(member.name, read, len(data))


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    opened: Any  # the decompressors have no common type
    if start.startswith(_GZIP):
        import gzip

        opened = gzip.open(path)  # noqa: SIM115 - returned open
    elif start.startswith(_BZIP2):
        import bz2

        opened = bz2.open(path)  # noqa: SIM115
    elif start.startswith(_XZ):
        import lzma

        opened = lzma.open(path)  # noqa: SIM115
    elif start.startswith(_ZSTD):
        import pyarrow as pa

        opened = pa.input_stream(str(path), compression="zstd")
    else:
        opened = path.open("rb")
    return cast(IO[bytes], opened)


class _Forward:
    """A file that is only read forwards, and never more at once than is allowed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.last = b""
        """What the last call of `read` returned: at the end of an archive, a block of zeros."""
        self._file = file
        self._position = 0
        self._allowed = _MAX_HEADER

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or position < self._position:
            raise tarfile.StreamError("an archive is read forwards only")
        while (left := position - self._position) > 0 and self._take(min(left, _STEP)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowed:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self._take(size)
        return self.last

    @contextmanager
    def allowing(self, size: int) -> Iterator[None]:
        """Allow to read `size` bytes at once within this block."""
        self._allowed = size
        try:
            yield
        finally:
            self._allowed = _MAX_HEADER

    def _take(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end of the file."""
        parts: list[bytes] = []
        while size > 0 and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
