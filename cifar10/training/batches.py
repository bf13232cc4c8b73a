"""Batches from a data set in device memory, as uint8, without worker processes, files or copies; or from one in a file.

Iterating a `TrainingBatches` is repeatable: the order of the images and their augmentation are determined by
(seed, epoch, position). With `follow` it iterates from a trainer's position, so that training resumes exactly.
"""

import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar10.data.image_dataset import Split
from cifar10.data.stored_images import Images, sample_of
from cifar10.training.augmentation import Augmentation, Pixels, ResidentPixels, StoredPixels

if TYPE_CHECKING:
    from cifar10.config.schema import AugmentationConfig

_ORDER_STREAM = 0

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), uint8 or float in 0..255, and targets: int64 (B,), or float (B, K) rows that sum to 1."""


def largest_batch(num_images: int, batch_size: int, num_shares: int) -> int:
    """Return the images per optimizer step: `batch_size`, or, of fewer images, as many as can be shared evenly.

    Raises:
        ValueError: There are fewer images than shares.
    """
    largest = min(batch_size, num_images - num_images % num_shares)
    if largest == 0:
        raise ValueError(f"{num_images} training images cannot be shared by {num_shares} parts")
    return largest


class TrainingBatches:
    """Shuffled, augmented batches. Each iteration yields the epoch set by `follow` or `seek`.

    An optimizer step takes `batch_size` images, in `micro_batches` parts. Each of `world_size` processes gets its own
    share of every micro-batch. Images beyond the last full batch are left out of the epoch.

    Args:
        split: The images to train on.
        num_classes: K.
        augmentation: The section `augmentation` of the configuration.
        batch_size: Images per optimizer step, over all processes and micro-batches. Divisible by
            micro_batches * world_size.
        seed: Seed of order and augmentation.
        device: Where the batches are made; images that are not in a file are stored there.
        micro_batches: Micro-batches per optimizer step.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        split: Split,
        num_classes: int,
        augmentation: "AugmentationConfig",
        batch_size: int,
        seed: int,
        device: torch.device,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        images = split.images
        kind = ResidentPixels if isinstance(images, Tensor) else StoredPixels
        self.pixels: Pixels = kind(images, device)  # type: ignore[arg-type]
        self.labels = split.labels.to(device)
        fill = _mean_colour(images) if augmentation.cutout else torch.zeros(3, dtype=torch.uint8)
        self.augmentation = Augmentation(augmentation, len(split), split.images.shape[-1], fill, seed)
        self.classes = torch.arange(num_classes, device=device)
        self.batch_size = largest_batch(len(split), batch_size, micro_batches * world_size)
        self.micro_batches = micro_batches
        self.rank = rank
        self.world_size = world_size
        self.seek(epoch=0, batch=0)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.labels) // self.batch_size

    def __len__(self) -> int:
        """Return the number of micro-batches in an epoch."""
        return self.steps_per_epoch * self.micro_batches

    def seek(self, epoch: int, batch: int) -> None:
        """Set the next iteration to the rest of `epoch`, from micro-batch number `batch` on."""
        self.follow(lambda: (epoch, batch))

    def follow(self, position: Callable[[], tuple[int, int]]) -> None:
        """Call `position` for (epoch, micro-batch number) whenever an iteration fetches its first batch."""
        self.position = position

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of all N images for `epoch`."""
        return np.random.default_rng([self.augmentation.seed, _ORDER_STREAM, epoch]).permutation(len(self.labels))

    def __iter__(self) -> Generator[Batch, None, None]:
        # The body runs at the first `next`: Lightning calls `iter` before it restores the position.
        epoch, first_batch = self.position()
        order = self.order(epoch)[: self.steps_per_epoch * self.batch_size]
        plan = self.augmentation.plan(order, epoch, self.steps_per_epoch, self.pixels, self.labels.device)
        labels = self.labels[plan.images]
        length = self.batch_size // (self.micro_batches * self.world_size)
        for number in range(first_batch, len(self)):
            step, start = number // self.micro_batches, (number * self.world_size + self.rank) * length
            share = slice(start, start + length)
            images = self.augmentation.apply(self.pixels, plan, step, share)
            if not self.augmentation.mixes:
                yield images, labels[share]
                continue
            # Not one_hot: it reads its values, which would synchronise with a GPU.
            own, other = (x.unsqueeze(1) == self.classes for x in (labels[share], labels[plan.partner[share]]))
            blend = plan.draws.blend[step]
            yield images, own.float() * blend + other.float() * (1 - blend)


def _mean_colour(images: Images) -> Tensor:
    """Return the mean of red, green and blue, uint8 (3,); of images in a file, that of a sample."""
    sample = sample_of(images)
    sums = sample.sum(dim=(0, 2, 3), dtype=torch.int64)  # sums of integers do not depend on the order
    return (sums.double() / (sample.numel() / 3)).round().to(torch.uint8)


class Chunks:
    """An iterator over the batches of an epoch, yielded again and again until it is exhausted.

    A training loop takes any number of batches at a time, so there is no length, and the last may have no batches.
    """

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        stream = iter(self.batches)
        while inspect.getgeneratorstate(stream) != inspect.GEN_CLOSED:
            yield stream


@dataclass(eq=False)
class EvaluationBatches:
    """The images of a split in its order, unchanged. Each process gets its own share; no image occurs twice."""

    split: Split
    batch_size: int
    device: torch.device
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        images = self.split.images
        self.images = images.to(self.device) if isinstance(images, Tensor) else images
        self.labels = self.split.labels.to(self.device)

    def __len__(self) -> int:
        """Return the number of batches that each process sees; its share of the last may be empty."""
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.labels), self.batch_size):
            length = min(self.batch_size, len(self.labels) - start)
            first = start + length * self.rank // self.world_size
            end = start + length * (self.rank + 1) // self.world_size
            yield self.images[first:end].to(self.device), self.labels[first:end]


@dataclass(frozen=True)
class AllAtOnce:
    """All batches of an evaluation as one: Lightning's work around a batch takes as long as a small network does."""

    batches: EvaluationBatches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield iter(self.batches)
