"""Compare an exported file with its checkpoint, image by image."""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar10.inference.engines import Engine

TOLERANCE = 1e-4
"""Largest difference of a probability in float32."""


@dataclass(frozen=True)
class Parity:
    """How far an export is from its checkpoint."""

    num_images: int
    num_flipped: int
    """Images whose most probable class is another one, for any size of batch."""
    largest_difference: float
    """Of a probability, over all images, classes and sizes of batches."""

    @property
    def is_equal(self) -> bool:
        """Whether no answer differs, and no probability by more than `TOLERANCE`."""
        return self.num_flipped == 0 and self.largest_difference <= TOLERANCE


def compare(reference: NDArray[np.float32], engine: Engine, images: NDArray[np.uint8], batch_size: int) -> Parity:
    """Compute `images` with `engine` one by one, in batches of `batch_size` and in batches of one more.

    Args:
        reference: Probabilities of the checkpoint, (N, K).
        engine: Of the exported file.
        images: uint8 (N, S, S, 3).
        batch_size: At least 1.
    """
    flipped, largest = np.zeros(len(images), bool), 0.0
    sizes = sorted({1, batch_size, batch_size + 1})
    with tqdm(total=len(sizes) * len(images), unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar:
        for size in sizes:
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                found = engine.probabilities(np.ascontiguousarray(images[part]))
                if found.shape != reference[part].shape or not np.isfinite(found).all():
                    return Parity(len(images), len(images), float("inf"))
                largest = max(largest, float(np.abs(found - reference[part]).max()))
                flipped[part] |= found.argmax(1) != reference[part].argmax(1)
                bar.update(len(found))
    return Parity(len(images), int(flipped.sum()), largest)
