"""Which of several recipes is better, when each was trained with the same seeds and tested on the same images.

A difference of accuracy varies with the seed and with the images. Both are treated as samples: an interval covers the
mean difference over further seeds and further images of the same kind. This is the analysis of variance with two
crossed random effects (Searle, Casella and McCulloch, "Variance Components", 1992, section 4.7), with Satterthwaite's
degrees of freedom.

Shapes: S seeds, N images.
"""

import itertools
from collections.abc import Mapping
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
    pairs = list(itertools.combinations(is_right, 2))
    confidence = 1 - (1 - CONFIDENCE) / max(len(pairs), 1)
    differences = []
    for first, second in pairs:
        seeds = [seed for seed in is_right[first] if seed in is_right[second]]
        if seeds:
            values = [is_right[first][seed].astype(float) - is_right[second][seed] for seed in seeds]
            differences.append(Difference(first, second, crossed_interval(np.stack(values), confidence), len(seeds)))
    return differences


def crossed_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `values`, (S, N), with its interval over further seeds and images.

    With one seed, it covers further images only.
    """
    num_seeds, num_images = values.shape
    mean = float(values.mean())
    if num_seeds == 1:
        return _interval(mean, values[0].var(ddof=1) / num_images, num_images - 1, confidence)
    of_seeds, of_images = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_images[None, :] + mean
    freedom = np.array([num_seeds - 1, num_images - 1, (num_seeds - 1) * (num_images - 1)], dtype=np.float64)
    squares = np.array(
        [
            num_images * np.square(of_seeds - mean).sum(),
            num_seeds * np.square(of_images - mean).sum(),
            np.square(rest).sum(),
        ]
    )
    mean_squares = squares / freedom
    # Each of the two alone would leave out one kind of chance; by chance, the sum less the rest may be smaller.
    total = max(mean_squares[0] + mean_squares[1] - mean_squares[2], mean_squares[0], mean_squares[1])
    spread = float((np.square(mean_squares) / freedom).sum())
    degrees = total**2 / spread if spread else num_images - 1
    return _interval(mean, total / values.size, degrees, confidence)


def seed_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of one value per seed, (S,), with Student's interval; with one seed it has no bounds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -np.inf, np.inf)
    return _interval(mean, float(np.var(values, ddof=1)) / len(values), len(values) - 1, confidence)


def _interval(mean: float, variance: float, degrees: float, confidence: float) -> Interval:
    from scipy import stats

    half = float(stats.t.ppf((1 + confidence) / 2, max(degrees, 1.0)) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)
