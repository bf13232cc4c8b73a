"""How far the accuracies of two trainings of one recipe lie apart by chance."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cifar10.analysis.paired_differences import CONFIDENCE
from cifar10.wording import counted

_LEAST_SEEDS = 3  # with two, Student's factor is 12.7
_Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class ScoreSpread:
    """The spread of a recipe."""

    limit: float
    """Two trainings differ by at most this with a probability of 95 %; accuracy, 1 = 100 %."""
    origin: str
    """How it is known."""


def spread_of(accuracy: float, num_images: int, siblings: Sequence[float]) -> ScoreSpread:
    """Return the spread between seeds if it is known from three or more, else that of drawing test images.

    Args:
        accuracy: Of the recipe.
        num_images: Test images.
        siblings: Accuracies of runs with other seeds.
    """
    if len(siblings) >= _LEAST_SEEDS:
        return _seed_spread(siblings, num_images)
    deviation = math.sqrt(2 * accuracy * (1 - accuracy) / num_images)
    few = f", since {counted(len(siblings), 'run')} with other seeds tell too little" if siblings else ""
    origin = f"the binomial error of {counted(num_images, 'test image')}{few or '; no run with another seed is known'}"
    return ScoreSpread(_Z * deviation, origin)


def _seed_spread(siblings: Sequence[float], num_images: int) -> ScoreSpread:
    from scipy import stats

    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(siblings) - 1))
    deviation = statistics.stdev(siblings)
    limit = max(factor * math.sqrt(2) * deviation, 1 / num_images)  # equal accuracies of siblings may be a coincidence
    origin = f"{len(siblings)} runs with other seeds, standard deviation {100 * deviation:.2f} points"
    return ScoreSpread(limit, origin)
