"""The images of a list: one path or address a line, or separated by NUL as `find -print0` writes them.

Paths are relative to the folder of the list, those on standard input to the current folder. Empty lines are skipped.
"""

import codecs
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, TextIO

from cifar10.errors import UserError
from cifar10.images.named_image import ImageSource, NamedImage, image_file, unreadable
from cifar10.images.sources import addresses

_CHUNK = 65_536  # bytes
_LONGEST = 8192  # bytes of a line
_MOST_EMPTY = 2**26  # bytes without the end of a line that is not empty
_TRIED = 20
"""Lines of which one must be an image, so that another text file is not taken for a list."""


def in_file(path: Path) -> ImageSource:
    """Return the images of a text file.

    Raises:
        UserError: None of its first lines is the path of a file, or an address.
    """
    folder = str(path.parent)
    with path.open("rb") as file:
        if _is_utf16(file.read(_TRIED * 10)):
            raise UserError(f"{path} is in UTF-16; save it as UTF-8, as a list of one path a line")
        file.seek(0)
        first = list(islice(split(file), _TRIED))
    if first and not any(addresses.is_address(os.fsdecode(line)) or _exists(folder, line) for line in first):
        raise UserError(
            f"{path} is a text file, and its first line is no file in {folder or os.curdir}: "
            f"{os.fsdecode(first[0])[:80]!r}; a list has one path a line, relative to its folder"
        )
    return ImageSource(str(path), _opened(path, folder), count=lambda: _count(path), root=path)


def on_standard_input(stdin: TextIO | None) -> ImageSource:
    """Return the images of a list that another program writes.

    Raises:
        UserError: Standard input is a terminal, or closed.
    """
    if stdin is None or stdin.closed or stdin.isatty():
        raise UserError("- reads a list of paths from another program, as in: find photos -name '*.jpg' | ... -")
    return ImageSource("-", listed(split(stdin.buffer), ""), root=Path("-"))


def listed(lines: Iterable[bytes], folder: str) -> Iterator[NamedImage]:
    """Yield the image of each line; its name is the line."""
    for line in lines:
        name = os.fsdecode(line)
        if len(line) > _LONGEST:
            yield unreadable(name[:100], f"not a path: a line of more than {_LONGEST:,} bytes")
        elif addresses.is_address(name):
            yield addresses.image_at(name)
        else:
            path = Path(os.path.join(folder, name))
            parent = os.path.basename(os.path.dirname(name)) if os.path.isabs(name) else os.path.dirname(name)
            image = image_file(path, name)
            yield NamedImage(name, image.read, folders=os.path.join(parent, path.name))


def split(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a stream, without their ends; the parts between NULs if there is one at its beginning.

    A line that is longer than a path is cut.

    Raises:
        UserError: There is nothing but empty lines, or a line without an end, for too long.
    """
    read = getattr(stream, "read1", stream.read)  # what a pipe holds by now
    first = read(_CHUNK)
    separator = b"\0" if b"\0" in first else b"\n"
    rest, num_empty = b"", 0
    for chunk in chain([first.removeprefix(codecs.BOM_UTF8)], iter(lambda: read(_CHUNK), b"")):
        *ended, rest = (rest + chunk).split(separator)
        lines = [line for line in map(_ended, ended) if line]
        num_empty = 0 if lines else num_empty + len(chunk)
        if num_empty > _MOST_EMPTY:
            raise UserError(f"the list has no path in {_MOST_EMPTY // 2**20} MB; it has one path a line")
        yield from lines
        rest = rest[: 2 * _LONGEST]
    if line := _ended(rest):
        yield line


def _is_utf16(start: bytes) -> bool:
    """Whether text is in the encoding of Windows' PowerShell and Notepad: ASCII letters between NULs."""
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        len(start) > 3 and (not any(start[1::2]) or not any(start[::2]))
    )


def _ended(line: bytes) -> bytes:
    return line.removesuffix(b"\r")[: _LONGEST + 1]


def _exists(folder: str, line: bytes) -> bool:
    try:
        return os.path.lexists(os.path.join(folder, os.fsdecode(line)))
    except ValueError:
        return False


def _opened(path: Path, folder: str) -> Iterator[NamedImage]:
    with path.open("rb") as file:
        yield from listed(split(file), folder)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in split(file))
