"""Images in a file, read when they are needed: data sets larger than memory are used like those in memory.

Shapes: M images of S x S pixels in the file, N of them in a split.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BYTES_AT_ONCE = 2**25


class StoredImages:
    """Some rows of a memory-mapped array, in any order. Indexing reads images into memory and returns a tensor.

    Args:
        pixels: uint8 (M, 3, S, S), memory-mapped.
        fingerprints: (M,), see `duplicates.FINGERPRINT`.
        rows: int64 (N,): the position in `pixels` of each image.
    """

    def __init__(self, pixels: NDArray[np.uint8], fingerprints: NDArray[Any], rows: NDArray[np.int64]) -> None:
        self._pixels = pixels
        self._fingerprints = fingerprints
        self._rows = rows

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S)."""
        return torch.Size((len(self._rows), *self._pixels.shape[1:]))

    @property
    def fingerprints(self) -> NDArray[Any]:
        """The fingerprint of each image, (N,)."""
        return self._fingerprints[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: "int | slice | Tensor | NDArray[np.int64]") -> Tensor:
        """Return images as uint8 (B, 3, S, S), or one as (3, S, S)."""
        rows = self._rows[key.numpy() if isinstance(key, Tensor) else key]
        return torch.from_numpy(np.take(self._pixels, rows, axis=0))

    def select(self, indices: Tensor) -> "StoredImages":
        """Return the images at `indices`, int64 (B,), without reading them."""
        return StoredImages(self._pixels, self._fingerprints, self._rows[indices.numpy()])

    def parts(self) -> Iterator[Tensor]:
        """Yield all images in order, in parts of 32 MB."""
        step = max(1, _BYTES_AT_ONCE // (3 * self.shape[-1] ** 2))
        for start in range(0, len(self), step):
            yield self[start : start + step]


Images = Tensor | StoredImages
"""uint8 (N, 3, S, S), in memory or in a file."""


def parts_of(images: Images) -> Iterator[Tensor]:
    """Yield `images` in order: as they are if they are in memory, else in parts of 32 MB."""
    if isinstance(images, Tensor):
        yield images
    else:
        yield from images.parts()


def sample_of(images: Images, num_bytes: int = 2**28) -> Tensor:
    """Return `images` themselves if they are in memory, else those of an even spread that take at most `num_bytes`."""
    if isinstance(images, Tensor):
        return images
    most = max(1, num_bytes // (3 * images.shape[-1] ** 2))
    return images[:: -(-len(images) // most)]
