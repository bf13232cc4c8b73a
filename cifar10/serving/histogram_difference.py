"""How different are two histograms, and may that be chance?

Shapes: B bins.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_SHARE = 0.1  # of the reference, in a group of neighbouring bins
_LEAST_EXPECTED = 2.0  # images in a group, for the chi-square test; fewer make its p-values wrong


@dataclass(frozen=True)
class Difference:
    """Between incoming images and the reference."""

    index: float
    """Population stability index, less what chance adds to it on average; at least 0."""
    p_value: float
    """How often chance alone makes a difference of this size or a larger one."""


def difference(reference: NDArray[np.float64], incoming: NDArray[np.float64], is_ordered: bool) -> Difference:
    """Compare incoming images with the reference, by the population stability index and a chi-square test.

    Bins with few images are joined first, since both measures are wrong for them.

    Args:
        reference: Images in each bin, (B,); at least one in all.
        incoming: The same of incoming images, (B,).
        is_ordered: Whether neighbouring bins are alike, as in a histogram; not so for classes.
    """
    groups = _neighbours(reference) if is_ordered else np.arange(len(reference))
    groups = _without_rare(groups, reference, incoming)
    expected, found = (np.bincount(groups, weights=counts) for counts in (reference, incoming))
    number, degrees = len(expected), len(expected) - 1
    if not degrees:
        return Difference(0.0, 1.0)
    shares = [(counts + 0.5) / (counts.sum() + 0.5 * number) for counts in (expected, found)]
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    by_chance = degrees * float(1 / expected.sum() + 1 / found.sum())
    both = expected + found
    statistic = sum(
        float(((counts - both * counts.sum() / both.sum()) ** 2 / (both * counts.sum() / both.sum())).sum())
        for counts in (expected, found)
    )
    return Difference(max(index - by_chance, 0.0), chi_square_tail(statistic, degrees))


def chi_square_tail(value: float, degrees: int) -> float:
    """Return the probability that a chi-square variable of `degrees` degrees of freedom exceeds `value`.

    By the recurrence of the incomplete gamma function, Q(a + 1, x) = Q(a, x) + x^a exp(-x) / gamma(a + 1).
    """
    half = value / 2
    if half <= 0:
        return 1.0
    shape = 0.5 if degrees % 2 else 1.0
    tail = math.erfc(math.sqrt(half)) if degrees % 2 else math.exp(-half)
    while shape < degrees / 2:
        tail += math.exp(shape * math.log(half) - half - math.lgamma(shape + 1))
        shape += 1
    return min(tail, 1.0)


def _neighbours(reference: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of the group that each bin belongs to: neighbours, with a tenth of the images together.

    Bins that have so many alone are groups, so that what lies beside them stays apart.
    """
    shares, groups, number, held = reference / reference.sum(), [], 0, 0.0
    for position, share in enumerate(shares.tolist()):
        if position and (held >= _LEAST_SHARE or share >= _LEAST_SHARE):
            number, held = number + 1, 0.0
        groups.append(number)
        held += share
    return np.array(groups)


def _without_rare(
    groups: NDArray[np.int64], reference: NDArray[np.float64], incoming: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Join groups in which too few images are expected of the smaller side, and number the groups from 0."""
    both = np.bincount(groups, weights=reference + incoming)
    expected = both * min(reference.sum(), incoming.sum()) / both.sum()
    order = np.argsort(expected, kind="stable")
    num_rare = int((expected < _LEAST_EXPECTED).sum())
    while 0 < num_rare < len(order) and expected[order[:num_rare]].sum() < _LEAST_EXPECTED:
        num_rare += 1  # all rare ones together are rare still
    joined = np.arange(len(both))
    joined[order[:num_rare]] = joined[order[0]]
    return np.unique(joined[groups], return_inverse=True)[1]
