"""Batches from a data set in device memory, as uint8, without worker processes, files or copies.

Iterating a `TrainingBatches` is repeatable: which images come when, and how they are changed, follows from
(seed, epoch, position) alone. `follow` ties it to a trainer's progress, so training goes on exactly where it was cut
off.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar10.data.image_dataset import Split
from cifar10.training.augmentation import Augmentation, Plan, pack

if TYPE_CHECKING:
    from cifar10.config.schema import AugmentationConfig

_ORDER_STREAM = 0

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), uint8 or float in 0..255, and targets: int64 (B,), or float (B, K) rows that sum to 1."""


def largest_batch(num_images: int, batch_size: int, num_shares: int) -> int:
    """Return the images per optimizer step: `batch_size`, or, if there are fewer, as many as can be shared evenly.

    Raises:
        ValueError: There are fewer images than shares.
    """
    largest = min(batch_size, num_images - num_images % num_shares)
    if largest == 0:
        raise ValueError(f"{num_images} training images cannot be shared by {num_shares} parts")
    return largest


class TrainingBatches:
    """One epoch of shuffled, augmented batches after the other; each `iter` is the one that `follow` or `seek` names.

    An optimizer step takes `batch_size` images. They come in `micro_batches` parts; each of `world_size` processes gets
    its own share of every micro-batch. Images beyond the last full batch wait for another epoch's order.

    Args:
        split: What to learn from.
        num_classes: K.
        augmentation: What to do to images.
        batch_size: Images per optimizer step, over all processes and micro-batches. Divisible by
            micro_batches * world_size.
        seed: Of order and augmentation.
        device: Where the images live.
        micro_batches: Per optimizer step.
        rank: Which of the processes this one is.
        world_size: How many there are.
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
        size = split.images.shape[-1]
        self.packed = pack(split.images.to(device))  # int32 (N, H, W)
        self.labels = split.labels.to(device)
        self.augmentation = Augmentation(augmentation, len(split), size, _mean_colour(split), seed)
        self.classes = torch.arange(num_classes, device=device)
        self.batch_size = largest_batch(len(split), batch_size, micro_batches * world_size)
        self.seed = seed
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
        """Let the next iteration be the rest of `epoch`, from micro-batch number `batch` on."""
        self.follow(lambda: (epoch, batch))

    def follow(self, position: Callable[[], tuple[int, int]]) -> None:
        """Ask `position` for (epoch, micro-batch number) whenever an iteration fetches its first batch."""
        self.position = position

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of all N images for `epoch`."""
        return np.random.default_rng([self.seed, _ORDER_STREAM, epoch]).permutation(len(self.labels))

    def __iter__(self) -> Iterator[Batch]:
        # The body runs at the first `next`, not at `iter`: Lightning calls `iter` before it knows where it resumes.
        epoch, first_batch = self.position()
        order = self.order(epoch)[: self.steps_per_epoch * self.batch_size]
        plan = self.augmentation.plan(order, epoch, self.steps_per_epoch, self.labels.device)
        labels = self.labels[plan.images]
        for number in range(first_batch, len(self)):
            step, part = divmod(number, self.micro_batches)
            yield self._batch(plan, labels, step, self._share(step, part))

    def _share(self, step: int, part: int) -> slice:
        """Return the positions within the epoch that are this process's share of micro-batch `part` of a batch."""
        length = self.batch_size // (self.micro_batches * self.world_size)
        start = step * self.batch_size + (part * self.world_size + self.rank) * length
        return slice(start, start + length)

    def _batch(self, plan: Plan, labels: Tensor, step: int, share: slice) -> Batch:
        images = self.augmentation.apply(self.packed, plan, step, share)
        if not self.augmentation.mixes:
            return images, labels[share]
        # Not one_hot: it looks at its values, and a GPU would be waited for.
        own, other = ((x.unsqueeze(1) == self.classes).float() for x in (labels[share], labels[plan.partner[share]]))
        blend = plan.blend[step]
        return images, own * blend + other * (1 - blend)


def _mean_colour(split: Split) -> Tensor:  # uint8 (3,)
    """Return the mean of each channel: of integers, so that it does not depend on an order of summing."""
    sums = split.images.sum(dim=(0, 2, 3), dtype=torch.int64)
    return (sums.double() / (split.images.numel() / 3)).round().to(torch.uint8)


class Chunks:
    """An epoch of `batches` as one stream, offered again and again until it has run dry.

    For a training loop that takes from the stream as many batches as it likes, and has other things to do in between.
    Nobody knows beforehand how often that will be, so there is no length. The last time it may be empty.
    """

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __iter__(self) -> "Iterator[BatchStream]":
        stream = BatchStream(self.batches)
        yield stream
        while not stream.is_dry:
            yield stream


class BatchStream(Iterator[Batch]):
    """An iterator that knows when it has nothing left to give."""

    def __init__(self, batches: TrainingBatches) -> None:
        self._batches = iter(batches)
        self._num_left: int | None = None  # known once the first has been asked for, and with it the position
        self._all = batches

    @property
    def is_dry(self) -> bool:
        return self._num_left == 0

    def __next__(self) -> Batch:
        if self._num_left is None:
            self._num_left = len(self._all) - self._all.position()[1]
        batch = next(self._batches)
        self._num_left -= 1
        return batch


class EvaluationBatches:
    """A split in its own order, as it is; each of several processes gets its own share, and no image comes twice."""

    def __init__(self, split: Split, batch_size: int, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self.images = split.images.to(device)
        self.labels = split.labels.to(device)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Return the number of batches that each process sees; its share of the last may be empty."""
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.labels), self.batch_size):
            length = min(self.batch_size, len(self.labels) - start)
            first = start + length * self.rank // self.world_size
            end = start + length * (self.rank + 1) // self.world_size
            yield self.images[first:end], self.labels[first:end]
