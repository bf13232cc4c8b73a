"""Whether networks that were tested on the same images differ by more than chance: two networks, or two recipes.

Two networks are compared by McNemar's exact test ("Note on the sampling error of the difference between correlated
proportions or percentages", Psychometrika 12, 1947): of the images that only one of them recognises, are more than half
its own? Two recipes, each trained with several seeds, are compared over seeds and images; see `paired_differences`.

Shapes: N images.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.paired_differences import (
    CONFIDENCE,
    Difference,
    Interval,
    compare_all,
)

_MOST_PAIRS = 45
"""Above it, networks are compared with the first one only."""


@dataclass(frozen=True)
class NetworkPair:
    """Two networks and the images that they recognise."""

    first: str
    second: str
    both: int
    """Images that both recognise."""
    only_first: int
    only_second: int
    neither: int
    interval: Interval
    """Accuracy of the first less that of the second; over further images, for this pair alone."""
    p_value: float
    """By McNemar's exact test, multiplied by the number of pairs (Bonferroni), at most 1."""

    @property
    def is_beyond_chance(self) -> bool:
        return self.p_value < 1 - CONFIDENCE

    @property
    def num_images(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the probability of a split at least as uneven, if each of these images fell to either side by a coin."""
    from scipy import stats

    total = only_first + only_second
    return 1.0 if total == 0 else float(stats.binomtest(only_first, total, 0.5).pvalue)


def compare_networks(is_right: Mapping[str, NDArray[np.bool_]]) -> list[NetworkPair]:
    """Return every pair of networks, or, if they are many, the first one with every other.

    Args:
        is_right: Network -> whether each image is classified correctly, (N,).
    """
    pairs = list(itertools.combinations(is_right, 2))
    if len(pairs) > _MOST_PAIRS:
        first, *others = is_right
        pairs = [(first, other) for other in others]
    return [_pair(*names, is_right[names[0]], is_right[names[1]], len(pairs)) for names in pairs]


def _pair(first: str, second: str, one: NDArray[np.bool_], other: NDArray[np.bool_], num_pairs: int) -> NetworkPair:
    only_first, only_second = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    values = one.astype(np.float64) - other
    return NetworkPair(
        first=first,
        second=second,
        both=int(np.sum(one & other)),
        only_first=only_first,
        only_second=only_second,
        neither=int(np.sum(~one & ~other)),
        interval=_image_interval(values),
        p_value=min(1.0, num_pairs * mcnemar(only_first, only_second)),
    )


def compare_recipes(is_right: Mapping[str, Sequence[tuple[int, NDArray[np.bool_]]]]) -> list[Difference]:
    """Return the difference of each pair of recipes, over further seeds and images.

    Runs are paired by their seeds if all recipes share them, else in the order of their seeds: the runs of two recipes
    are independent, so that any pairing is right. A recipe with more runs than the other loses the last ones.

    Args:
        is_right: Recipe -> (seed, whether each image is classified correctly, (N,)) of each run.
    """
    seeds = {name: [seed for seed, _ in runs] for name, runs in is_right.items()}
    shared = all(
        len({*seeds[first]} & {*seeds[second]}) == min(len(seeds[first]), len(seeds[second]))
        for first, second in itertools.combinations(seeds, 2)
    )
    numbered = {
        name: {
            seed if shared else place: right for place, (seed, right) in enumerate(sorted(runs, key=lambda run: run[0]))
        }
        for name, runs in is_right.items()
    }
    return compare_all(numbered)


def class_differences(
    is_right: tuple[Sequence[NDArray[np.bool_]], Sequence[NDArray[np.bool_]]],
    labels: NDArray[np.int64],
    num_classes: int,
) -> list[Interval | None]:
    """Return for each class the recall of the first side less that of the second, averaged over the runs of each.

    All intervals together hold with a probability of 95 % (Bonferroni), over further images, for these networks. None:
    the class has fewer than two images.
    """
    ours, theirs = (np.stack(side).astype(np.float64).mean(axis=0) for side in is_right)
    difference: NDArray[np.float64] = np.asarray(ours - theirs)
    members = [difference[labels == class_id] for class_id in range(num_classes)]
    num_tests = max(1, sum(len(each) > 1 for each in members))
    return [_image_interval(each, num_tests) if len(each) > 1 else None for each in members]


def _image_interval(values: NDArray[np.float64], num_tests: int = 1) -> Interval:
    """Return the mean of `values`, (N,), each in [-1, 1], with its interval over further images, also if N is small.

    Two images are added, half of one to each way in which two networks may differ or agree (Agresti and Min, "Simple
    improved confidence intervals for comparing matched proportions", Statistics in Medicine 24, 2005). Without them,
    four images on which all answers differ in the same way would have an interval of no width.
    """
    from scipy import stats

    number = len(values) + 2
    centre = float(values.sum()) / number
    variance = (float(np.square(values).sum()) + 1) / number - centre**2
    quantile = 1 - (1 - CONFIDENCE) / num_tests / 2
    half = float(stats.t.ppf(quantile, number - 1)) * (variance / number) ** 0.5
    return Interval(float(values.mean()), max(centre - half, -1.0), min(centre + half, 1.0))
