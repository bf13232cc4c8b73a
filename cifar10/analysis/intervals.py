"""Confidence intervals of fractions, such as accuracies."""

import math
from typing import NamedTuple

_Z = 1.959963984540054  # of the normal distribution, 95 % lie within so many standard deviations


class Interval(NamedTuple):
    """Ends of an interval."""

    low: float
    high: float


def wilson(successes: float, trials: int) -> Interval:
    """Return the 95 % interval of a fraction by Wilson's score (https://doi.org/10.2307/2276774).

    Unlike that of the normal distribution, it holds for small numbers and for fractions near 0 and 1.

    Args:
        successes: Between 0 and `trials`.
        trials: At least 1.
    """
    part = successes / trials
    shrink = 1 + _Z**2 / trials
    centre = (part + _Z**2 / (2 * trials)) / shrink
    half = _Z / shrink * math.sqrt(part * (1 - part) / trials + (_Z / (2 * trials)) ** 2)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def mean_interval(mean: float, deviation: float, number: int) -> Interval:
    """Return the 95 % interval of the mean of `number` values with this standard deviation, by the normal one."""
    half = _Z * deviation / math.sqrt(number)
    return Interval(mean - half, mean + half)
