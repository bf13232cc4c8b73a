"""Which of several recipes is better, when each was trained with the same seeds and tested on the same images.

A difference of accuracy varies with the seed and with the images. Both are treated as samples: an interval covers the
mean difference over further seeds and further images of the same kind. This is the analysis of variance with two
crossed random effects; each of the two parts of the variance of the mean has Student's factor for its own degrees of
freedom (Cochran, "Approximate significance levels of the Behrens-Fisher test", Biometrics 20, 1964). The part of the
seeds is estimated from all pairs of recipes together, since few seeds say little about a single pair.

Shapes: S seeds, N images.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """Accuracy of `first` less that of `second`."""

    first: str
    second: str
    interval: Interval
    num_seeds: int

    @property
    def is_beyond_chance(self) -> bool:
        """Whether it is not zero; one seed is not enough to say so, since the spread over seeds is unknown."""
        return self.num_seeds > 1 and self.interval.excludes_zero

    def of(self, name: str) -> "Difference":
        """Return the difference with `name` as `first`; it is one of the two."""
        if name == self.first:
            return self
        assert name == self.second
        turned = Interval(-self.interval.value, -self.interval.high, -self.interval.low)
        return Difference(self.second, self.first, turned, self.num_seeds)


def compare_all(is_right: Mapping[str, Mapping[int, NDArray[np.bool_]]]) -> list[Difference]:
    """Return the difference of each pair of recipes that share a seed.

    All intervals together hold with a probability of 95 % (Bonferroni).

    Args:
        is_right: Recipe -> seed -> whether each test image is classified correctly, (N,).
    """
    values = {}
    for first, second in itertools.combinations(is_right, 2):
        seeds = [seed for seed in is_right[first] if seed in is_right[second]]
        if seeds:
            values[first, second] = np.stack([is_right[first][s].astype(float) - is_right[second][s] for s in seeds])
    confidence = 1 - (1 - CONFIDENCE) / max(len(values), 1)
    chance = SeedChance.of(list(values.values()), len(is_right))
    return [
        Difference(*pair, crossed_interval(of_pair, chance, confidence), len(of_pair))
        for pair, of_pair in values.items()
    ]


@dataclass(frozen=True)
class SeedChance:
    """How much a difference of accuracy varies with the seed."""

    variance: float
    """Of the difference with one seed, over all test images."""
    degrees: int
    """Degrees of freedom of this estimate; 0: it is not known, since there is one seed."""

    @classmethod
    def of(cls, pairs: Sequence[NDArray[np.float64]], num_recipes: int) -> "SeedChance":
        """Estimate it from the differences of all pairs, each (S, N)."""
        several = [values.mean(axis=1) for values in pairs if len(values) > 1]
        if not several:
            return cls(0.0, 0)
        squares = sum(float(np.square(each - each.mean()).sum()) for each in several)
        least = min(map(len, several))
        return cls(squares / sum(len(each) - 1 for each in several), (num_recipes - 1) * (least - 1))


def crossed_interval(values: NDArray[np.float64], chance: SeedChance, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `values`, (S, N), with its interval over further seeds and images.

    If the chance of seeds is not known, it covers further images only.
    """
    from scipy import stats

    num_seeds, num_images = values.shape
    mean, of_seeds, of_images = float(values.mean()), values.mean(axis=1), values.mean(axis=0)
    among_images = float(np.square(of_images - mean).sum()) / (num_images - 1)
    if num_seeds > 1:  # the mean of an image varies with the seed, too, and that is counted among the seeds
        rest = values - of_seeds[:, None] - of_images[None, :] + mean
        among_images -= float(np.square(rest).sum()) / ((num_seeds - 1) * (num_images - 1)) / num_seeds
    parts = [(max(among_images, 0.0) / num_images, num_images - 1)]
    if chance.degrees:
        parts.append((chance.variance / num_seeds, chance.degrees))
    quantile = (1 + confidence) / 2
    half = sum(variance * float(stats.t.ppf(quantile, degrees)) ** 2 for variance, degrees in parts) ** 0.5
    return Interval(mean, mean - half, mean + half)


def seed_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one value per seed, (S,), with Student's interval; with one seed it has no bounds."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    factor = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = factor * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)
