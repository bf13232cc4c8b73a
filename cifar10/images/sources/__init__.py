"""Where images come from: one file for each kind of source, and the function that recognises the kind."""

import os
import sys
from collections import Counter
from pathlib import Path

from cifar10.errors import UserError
from cifar10.images.named_image import ImageSource
from cifar10.images.other_formats import kind_of_collection, kind_of_name
from cifar10.images.search import SUFFIXES
from cifar10.images.sources import addresses, folder, path_list

STANDARD_INPUT = "-"
is_address = addresses.is_address
_START = 4096  # bytes that tell the kind of a file


def open_source(given: str) -> ImageSource:
    """Return the images of `given`.

    Args:
        given: A folder, an image file, a glob, an archive, a text file of paths, an address, or `-` for a list of paths
            on standard input.

    Raises:
        UserError: There is no such folder or file, or it is of another kind.
    """
    if given == STANDARD_INPUT:
        return path_list.on_standard_input(sys.stdin)
    skipped: Counter[str] = Counter()
    if addresses.is_address(given):
        return ImageSource(given, addresses.find(given), skipped)
    return _open_file(given, skipped) if os.path.isfile(given) else folder.search(given)


def _open_file(given: str, skipped: Counter[str]) -> ImageSource:
    if kind_of_name(given) == "raw photo":  # only its thumbnail could be read
        raise UserError(f"{given} is a raw photo, which is not read; convert it to JPEG or PNG")
    from cifar10.images.sources import tar_archive, zip_archive

    path, start = Path(given), _first_bytes(given)
    if zip_archive.is_zip(start):
        archive = zip_archive.open_zip(path)
        return ImageSource(given, zip_archive.find(archive, skipped), skipped, lambda: zip_archive.count(archive), path)
    if tar_archive.may_be_tar(start):
        return ImageSource(given, tar_archive.find(path, skipped), skipped, root=path)
    kind = kind_of_collection(start)
    if kind == "text" and not _is_named_as_image(given):
        return path_list.in_file(path)
    if kind is not None and kind != "text":
        raise UserError(f"{given} is {kind}")
    return folder.search(given)


def is_collection(path: str) -> bool:
    """Return whether `open_source` finds any number of images at `path`: not if it is the file of an image."""
    if addresses.is_address(path) or not os.path.lexists(path) or os.path.isdir(path):
        return True
    from cifar10.images.sources import tar_archive, zip_archive

    start = _first_bytes(path) if os.path.isfile(path) else b""
    if zip_archive.is_zip(start) or tar_archive.may_be_tar(start):
        return True
    return kind_of_collection(start) is not None and not _is_named_as_image(path)


def _is_named_as_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_START)
    except OSError:  # the decoder reports an unreadable file
        return b""
