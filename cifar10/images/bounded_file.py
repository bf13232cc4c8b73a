"""The file that Pillow reads an image from, with a limit of work.

Pillow's readers of PNG chunks, JPEG segments, GIF blocks, TIFF tags and PPM headers are loops in Python, each turn of
which reads a few bytes: an image of 32 x 32 in a file of 10 MB can take many seconds. The number of reads bounds them
all, whatever the format.
"""

import io

from cifar10.images.reading import ImageError

MIN_READS = 2**15
"""Reads that are allowed for any file; they take 0.1 s. Most images are read in less than 100."""
BYTES_OF_READ = 1024
"""Bytes of the file for each further read. PNG chunks, each of which takes three, have 8 KiB, seldom 4."""


class BoundedFile(io.BytesIO):
    """A file in memory that raises ImageError at the read that is one too many for its size."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._limit = MIN_READS + len(data) // BYTES_OF_READ
        self._num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._num_reads += 1
        if self._num_reads > self._limit:
            raise ImageError(f"too large: too many chunks, segments or blocks; the limit is {self._limit:,} reads")
        return super().read(size)
