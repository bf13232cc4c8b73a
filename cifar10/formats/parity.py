"""Compare an exported file with its checkpoint, image by image."""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cifar10.inference.engines import Engine, load_model
from cifar10.inference.finite import require_numbers
from cifar10.runs.checkpoints import Checkpoint
from cifar10.system.streams import print_message

TOLERANCE = 1e-4
"""Largest difference of a probability in float32."""


@dataclass(frozen=True)
class Parity:
    """How far an export is from its checkpoint, over all images and sizes of batches."""

    num_images: int
    num_flipped: int
    """Images whose most probable class differs."""
    largest_difference: float
    """Of a probability."""
    lost_points: float
    """Accuracy of the checkpoint less accuracy of the export, in percentage points; the largest of all batch sizes."""

    @property
    def is_equal(self) -> bool:
        """Whether no class differs, and no probability by more than `TOLERANCE`."""
        return self.num_flipped == 0 and self.largest_difference <= TOLERANCE

    def describe(self) -> str:
        """Return one line for people."""
        flipped = f"the class of {self.num_flipped:,} differs" if self.num_flipped else "no class differs"
        text = f"{self.num_images:,} images: {flipped}, probabilities by at most {self.largest_difference:.1e}"
        return text if self.num_flipped == 0 else f"{text}, accuracy {-self.lost_points:+.2f} points"


def compare(
    reference: NDArray[np.float32],
    engine: Engine,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    batch_size: int,
) -> Parity:
    """Compute `images` with `engine` one by one, in batches of `batch_size` and in batches of one more.

    Args:
        reference: Probabilities of the checkpoint, (N, K).
        engine: Of the exported file.
        images: uint8 (N, S, S, 3).
        labels: Class ids, (N,).
        batch_size: At least 1.
    """
    flipped, largest, lost = np.zeros(len(images), bool), 0.0, -len(images)
    expected = reference.argmax(1)
    num_right = int(np.count_nonzero(expected == labels))
    sizes = sorted({1, batch_size, batch_size + 1})
    with tqdm(total=len(sizes) * len(images), unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar:
        for size in sizes:
            classes = np.empty(len(images), np.int64)
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                found = engine.probabilities(np.ascontiguousarray(images[part]))
                if found.shape != reference[part].shape or not np.isfinite(found).all():
                    return Parity(len(images), len(images), np.inf, 100.0)
                largest = max(largest, float(np.abs(found - reference[part]).max()))
                classes[part] = found.argmax(1)
                bar.update(len(found))
            flipped |= classes != expected
            lost = max(lost, num_right - int(np.count_nonzero(classes == labels)))
    return Parity(len(images), int(flipped.sum()), largest, 100 * lost / len(images))


def compare_with_checkpoint(
    checkpoint: Checkpoint, engine: Engine, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> Parity:
    """Compare an exported file with its checkpoint, which PyTorch's own operators compute in float32.

    Args:
        checkpoint: That was exported.
        engine: Of the exported file.
        images: uint8 (N, S, S, 3).
        labels: Class ids, (N,).

    Raises:
        CheckpointError: The network of the checkpoint gives NaN or infinity for some images.
    """
    batch_size = checkpoint.config.evaluation.images_at_once(checkpoint.image_size)
    print_message(f"computing {len(images):,} test images with {checkpoint.path}")
    reference = all_probabilities(load_model("eager", checkpoint.path, "cpu").engine, images, batch_size)
    require_numbers(reference, checkpoint.path)
    print_message("computing them with the exported file, one by one and in batches")
    return compare(reference, engine, images, labels, batch_size)


def all_probabilities(
    engine: Engine, images: NDArray[np.uint8], batch_size: int, name: str = ""
) -> NDArray[np.float32]:
    """Return the probabilities of `images`, uint8 (N, S, S, 3), computed in batches: (N, K). N is at least 1."""
    parts = []
    with tqdm(total=len(images), desc=name, unit=" images", leave=False, disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(images), batch_size):
            parts.append(engine.probabilities(np.ascontiguousarray(images[start : start + batch_size])))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)
