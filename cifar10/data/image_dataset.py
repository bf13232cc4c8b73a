"""The data set class that all loaders return: three disjoint splits of uint8 pixels, and class names.

Shapes: N images, H x W pixels, K classes.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar10.data.class_names import few, is_utf8
from cifar10.data.stored_images import Images, parts_of
from cifar10.errors import UsageError, UserError
from cifar10.system.limits import available_memory
from cifar10.wording import counted


class DataError(UserError):
    """The data are unavailable or unusable; the message states the remedy."""


class MissingDataError(DataError):
    """A folder that the settings name does not exist or has another layout than required. Nothing was started."""

    exit_code = UsageError.exit_code


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in a fixed order."""

    images: Images
    """uint8 (N, 3, H, W), RGB, H == W: a tensor, or images in a file, from which an index or a slice reads a tensor."""
    labels: Tensor
    """int64 (N,), each in [0, K)."""
    files: tuple[str, ...] | None = None
    """The file of each image, N paths; None: they are not from files."""

    def __post_init__(self) -> None:
        assert not isinstance(self.images, Tensor) or self.images.dtype == torch.uint8
        assert len(self.images.shape) == 4 and self.images.shape[1] == 3
        assert self.images.shape[2] == self.images.shape[3]
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]
        assert self.files is None or len(self.files) == len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Split":
        """Return the images at `indices`, int64 (M,), in that order; those in a file are not read."""
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.select(indices)
        files = None if self.files is None else tuple(self.files[index] for index in indices.tolist())
        return Split(images, self.labels[indices], files)

    def arrays(self, most: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the first `most` images, uint8 (N, H, W, 3), C-contiguous, and labels, (N,); None: all."""
        pixels = np.ascontiguousarray(self.images[:most].permute(0, 2, 3, 1).numpy())
        return pixels, self.labels[:most].numpy()


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Three disjoint splits over the same K classes. The test split is used once, at the end."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    """Held out of the published training split; may be empty."""
    test: Split
    is_mirrorable: bool | None = field(default=None, kw_only=True)
    """Whether the mirror image of each image is of the same class; None: unknown, so each run measures it."""

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DataError(f"{self.name} has {len(self.class_names)} class; a classifier needs at least 2")
        if twice := [name for name, times in Counter(self.class_names).items() if times > 1]:
            raise DataError(f"{self.name} names a class twice: {few(twice)}")
        if strange := [name for name in self.class_names if not is_utf8(name)]:
            raise DataError(f"{self.name} has classes whose names cannot be written in UTF-8: {few(strange)}")
        for split_name, split in self.splits.items():
            if len(split) and int(split.labels.max()) >= self.num_classes:
                raise DataError(f"{self.name}/{split_name} has a label beyond its {self.num_classes} classes")

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order they are used."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.train.images.shape[-1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over class names, pixels and labels of all splits: equal if and only if the data are."""
        sha = hashlib.sha256("\0".join(self.class_names).encode())
        for name, split in self.splits.items():
            sha.update(f"{name} {tuple(split.images.shape)}".encode())
            for part in parts_of(split.images):
                sha.update(part.contiguous().numpy().data)
            sha.update(split.labels.contiguous().numpy().data)
        return sha.hexdigest()


def require_memory(num_bytes: int, image_size: int, advice: str) -> None:
    """Raise an error if images do not fit into the free memory, before any is allocated.

    Args:
        num_bytes: Largest size of all images at one time.
        image_size: Height and width in pixels, for the message.
        advice: The setting to lower, for the message.

    Raises:
        DataError: The images do not fit.
    """
    available = available_memory()
    if num_bytes > available:
        needed = min(num_bytes, 10**24)  # a larger integer may not fit into a float
        raise DataError(
            f"the images take {needed / 2**30:,.1f} GB of memory at image_size={image_size}, and only "
            f"{available / 2**30:,.1f} GB are free; {advice}"
        )


def hold_out(pool: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Split `pool` into (train, validation), with `size` images in the validation split, stratified by class.

    Each class has `size * share` images in it, rounded by largest remainder, and chosen by a generator that depends
    only on `seed`. Both splits keep the order of `pool`.

    Raises:
        DataError: `size` leaves no image to train on.
    """
    if size >= len(pool):
        raise DataError(
            f"validation_size={size} leaves nothing to train on: the training split has {counted(len(pool), 'image')}"
        )
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(pool.labels)
    exact = counts.double() * size / len(pool)
    quota = exact.floor().long()
    remainder = (exact - quota).sort(descending=True, stable=True).indices
    quota[remainder[: size - int(quota.sum())]] += 1
    chosen = torch.zeros(len(pool), dtype=torch.bool)
    members_of = pool.labels.argsort(stable=True).split(counts.tolist())
    for members, count in zip(members_of, quota.tolist(), strict=True):
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return pool.take((~chosen).nonzero().flatten()), pool.take(chosen.nonzero().flatten())
