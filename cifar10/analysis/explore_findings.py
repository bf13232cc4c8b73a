"""Everything that `explore` has found, and counts of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.appearance import Appearance
from cifar10.analysis.label_issues import LabelIssues
from cifar10.analysis.near_duplicates import RankedPairs
from cifar10.data.collection import Collection


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that `explore` has found.

    Args:
        collection: The images.
        counts: Split -> images of each class, (K,).
        histograms: Split -> (3, 256): pixels of each level in red, green and blue.
        constants: Published mean and standard deviation of the training pixels, scaled to [0, 1]; None: there are none.
        means: Mean image of each class, (K, S, S, 3), or of all, (1, S, S, 3).
        appearance: Measures of each image.
        oddities: See `find_odd`: names and degrees.
        copies: Groups of images with the same pixels.
        pairs: Ranked near-duplicates, copies left out; None: not searched.
        issues: Of the labels; None: not judged.
        compared_by: The kinds of descriptors.
    """

    collection: Collection
    counts: dict[str, NDArray[np.int64]]
    histograms: dict[str, NDArray[np.int64]]
    constants: tuple[Sequence[float], Sequence[float]] | None
    means: NDArray[np.uint8]
    appearance: Appearance
    oddities: tuple[NDArray[np.str_], NDArray[np.float32]]
    copies: Sequence[NDArray[np.int64]]
    pairs: RankedPairs | None
    issues: LabelIssues | None
    compared_by: str


class CopyCounts(NamedTuple):
    """Numbers of exact copies."""

    images: int
    """With the pixels of another one."""
    spare: int
    """With the pixels of an earlier one."""
    across: int
    """Pictures that are in several splits."""
    contradictory: int
    """Pictures with several labels."""


def copy_counts(collection: Collection, copies: Sequence[NDArray[np.int64]]) -> CopyCounts:
    """Count groups of images with the same pixels."""
    images = sum(map(len, copies))
    across = sum(len(np.unique(collection.split_ids[group])) > 1 for group in copies)
    contradictory = sum(len(np.unique(collection.labels[group])) > 1 for group in copies)
    return CopyCounts(images, images - len(copies), across, contradictory)


def is_across(collection: Collection, pairs: RankedPairs) -> NDArray[np.bool_]:
    """Return whether the images of each pair are in different splits, (P,)."""
    differ: NDArray[np.bool_] = collection.split_ids[pairs.first] != collection.split_ids[pairs.second]
    return differ
