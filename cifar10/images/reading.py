"""Read image files, or raise an error with the reason. Importing this imports neither Pillow nor NumPy."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cifar10.errors import UserError

MAX_BYTES = 128 * 2**20
"""Size of the largest file that is read."""


class ImageError(UserError):
    """This file or these bytes cannot be used as an image; the message is a short reason."""


def read_image_file(path: Path, before_reading: Callable[[int], None] | None = None) -> bytes:
    """Return the content of the file; its size in bytes is passed to `before_reading`, which may wait.

    Raises:
        ImageError: The file cannot be read, is not a regular file, or is too large.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()  # raises the reason if it cannot be listed
            raise ImageError("a folder")
        if not stat.S_ISREG(mode):
            raise ImageError("not a regular file")
        no_wait = getattr(os, "O_NONBLOCK", 0)  # a pipe that has replaced the file since `stat` must not block
        flags = os.O_RDONLY | os.O_CLOEXEC | no_wait
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            refuse_size(status.st_size)
            if before_reading is not None:
                before_reading(status.st_size)
            return file.read(status.st_size)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def refuse_size(num_bytes: int, most_bytes: int | None = None) -> None:
    """Raise an ImageError if an encoded image of `num_bytes` is not read: one above `most_bytes`, or `MAX_BYTES`."""
    most_bytes = MAX_BYTES if most_bytes is None else most_bytes
    if num_bytes > most_bytes:
        raise ImageError(f"too large: {num_bytes / 2**20:.0f} MiB, the limit is {most_bytes // 2**20} MiB")
