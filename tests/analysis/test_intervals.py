"""Intervals, against SciPy."""

import pytest
from scipy.stats import binomtest

from cifar10.analysis.intervals import mean_interval, wilson


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 7), (50, 100), (9411, 10000), (1, 100000)]
)
def test_wilson_s_interval_is_scipy_s(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_is_two_standard_errors_wide_on_either_side() -> None:
    low, high = mean_interval(0.5, 2.0, 400)
    assert (low, high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196), abs=1e-4)
