"""Encoded images with their names, as all sources yield them: folders, archives, lists, addresses."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from cifar10.images.reading import ImageError, read_image_file

BeforeReading = Callable[[int], None]
"""Called with a size in bytes before so many are read into memory; may wait."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image that has been found and not read yet."""

    name: str
    """Relative to the folder or archive, otherwise as it was given. May contain surrogate escapes."""
    read: Callable[[BeforeReading], bytes]
    """Returns the encoded bytes, in any thread; raises ImageError."""
    num_bytes: int = 0
    """Bytes in memory already, as in an archive that cannot be read twice."""
    is_remote: bool = False
    """Whether reading takes much longer than decoding."""
    folders: str | None = None
    """Path whose folders may be class names; None: `name`."""


@dataclass
class ImageSource(Iterator[NamedImage]):
    """The images of a folder, a glob, a file, an archive, a list or an address; found during the iteration.

    The order is the same each time, if the content is.
    """

    given: str
    images: Iterator[NamedImage]
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> number of entries skipped so far; complete when the iteration has ended."""
    count: Callable[[], int | None] = lambda: None
    """Returns how many images there are, which may take seconds, or None if only an iteration would tell."""
    root: Path = Path()
    """The folder that is searched, for messages."""

    def __next__(self) -> NamedImage:
        return next(self.images)

    def is_empty(self) -> bool:
        """Return whether no image is left. The next image is not consumed."""
        first = next(self.images, None)
        if first is None:
            return True
        self.images = chain([first], self.images)
        return False


def image_file(path: Path, name: str | None = None) -> NamedImage:
    """Return a file, called by its path if `name` is None."""
    return NamedImage(str(path) if name is None else name, partial(read_image_file, path))


def unreadable(name: str, reason: str) -> NamedImage:
    """Return an image that cannot be read, for `reason`."""

    def fail(before_reading: BeforeReading) -> bytes:
        raise ImageError(reason)

    return NamedImage(name, fail)
