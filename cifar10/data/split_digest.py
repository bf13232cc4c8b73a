"""What a test split holds, whatever its order, to find out whether two networks can be tested on the same images."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cifar10.data.image_dataset import ImageDataset
from cifar10.data.stored_images import parts_of


@dataclass(frozen=True, eq=False)
class SplitContent:
    """The images of a split and their classes, N of each."""

    class_names: tuple[str, ...]
    """In ascending order."""
    keys: tuple[NDArray[np.bytes_], ...]
    """SHA-256 for each image, (N,): of pixels and class; and, if the images are from files, of file and class, for
    networks that take images of other sizes."""

    @classmethod
    def of_test(cls, data: ImageDataset) -> "SplitContent":
        classes = [f"{data.class_names[label]}\0".encode() for label in data.test.labels.tolist()]
        keys = [_keys(_pixels(data), classes)]
        if data.test.files is not None:
            keys.append(_keys((file.encode(errors="replace") for file in data.test.files), classes))
        return cls(tuple(sorted(data.class_names)), tuple(keys))

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """One for each of `keys`; two splits that share one hold the same images, perhaps in another order."""
        names = hashlib.sha256("\0".join(self.class_names).encode()).digest()
        return tuple(hashlib.sha256(names + np.sort(keys).tobytes()).hexdigest() for keys in self.keys)

    def positions_in(self, other: "SplitContent") -> NDArray[np.int64] | None:
        """Return the position of each image in another split, (N,); None: they do not hold the same images."""
        for keys, digest in zip(self.keys, self.digests, strict=True):
            if digest in other.digests:
                positions = np.empty(len(keys), dtype=np.int64)
                positions[np.argsort(keys, kind="stable")] = np.argsort(
                    other.keys[other.digests.index(digest)], kind="stable"
                )
                return positions
        return None


def _pixels(data: ImageDataset) -> Iterator[bytes]:
    """Yield size and pixels of each test image."""
    for part in parts_of(data.test.images):
        size = str(tuple(part.shape[1:])).encode()
        for image in part.contiguous().numpy():
            yield size + image.tobytes()


def _keys(contents: Iterator[bytes], classes: Sequence[bytes]) -> NDArray[np.bytes_]:
    pairs = zip(contents, classes, strict=True)
    return np.array([hashlib.sha256(name + content).digest() for content, name in pairs], dtype="S32")
