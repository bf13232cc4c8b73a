"""Divide labelled images into training, validation and test split by their content.

An image's split depends on its pixels, the seed, and the other images of its class; not on names or on the order of the
files. If k images are added to a class, at most k of its other images change to a neighbouring split, and no image of
another class does. Copies and near-copies of one picture are in the same split.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.data.duplicates import duplicate_groups, fingerprints_of
from cifar10.data.image_dataset import Split

_TRAIN, _VALIDATION, _TEST = range(3)


def divide(pool: Split, validation_fraction: float, test_fraction: float, seed: int) -> tuple[Split, Split, Split, int]:
    """Return the training, validation and test split of `pool`, and the number of images that are copies of others.

    Args:
        pool: N images.
        validation_fraction: Fraction of the images of each class that are not tested on.
        test_fraction: Fraction of the images of each class. Both are rounded; at least one image for each split if a
            class has four or more pictures, and at least one for training and testing if it has two.
        seed: Determines the division.
    """
    fingerprints = fingerprints_of(pool.images)
    groups = duplicate_groups(fingerprints)
    splits = _assign(
        groups, _sort_keys(fingerprints, groups, seed), pool.labels.numpy(), validation_fraction, test_fraction
    )
    train, validation, test = (
        pool.take(torch.from_numpy(np.flatnonzero(splits == split))) for split in (_TRAIN, _VALIDATION, _TEST)
    )
    return train, validation, test, len(groups) - len(np.unique(groups))


def _sort_keys(fingerprints: NDArray[Any], groups: NDArray[np.int64], seed: int) -> list[bytes]:
    """Return one key for each group: a hash of the seed and of the pixels of its member with the smallest hash."""
    smallest: dict[int, bytes] = {}
    for group, digest in zip(groups.tolist(), fingerprints["digest"], strict=True):
        smallest[group] = min(smallest.get(group, b"\xff" * 17), digest.tobytes())
    return [
        hashlib.blake2b(smallest[group], digest_size=16, key=str(seed).encode()).digest() for group in sorted(smallest)
    ]


def _assign(
    groups: NDArray[np.int64],
    keys: list[bytes],
    labels: NDArray[np.int64],
    validation_fraction: float,
    test_fraction: float,
) -> NDArray[np.int64]:
    """Return the split of each image, (N,)."""
    sizes = np.bincount(groups)
    class_of = np.zeros(len(sizes), np.int64)
    class_of[groups[::-1]] = labels[::-1]  # of the first member, if there are several
    split_of = np.full(len(sizes), _TRAIN)
    for label in np.unique(class_of).tolist():
        members = sorted(np.flatnonzero(class_of == label).tolist(), key=keys.__getitem__)
        num_images, num_pictures = int(sizes[members].sum()), len(members)
        num_test = _quota(test_fraction, num_images, num_pictures >= 2)
        quotas = {
            _TEST: num_test,
            _VALIDATION: _quota(validation_fraction, num_images - num_test, num_pictures >= 4),
        }
        for split, quota in quotas.items():
            left = quota
            for group in members[:-1]:  # the last one is always trained on
                if split_of[group] == _TRAIN and sizes[group] <= left:
                    split_of[group], left = split, left - sizes[group]
    return split_of[groups]


def _quota(fraction: float, num_images: int, at_least_one: bool) -> int:
    return max(round(fraction * num_images), int(at_least_one and fraction > 0))
