"""The spread that accuracies of one recipe may have."""

import numpy as np
import pytest

from cifar10.analysis.score_spread import spread_of


def test_without_siblings_it_is_the_binomial_error() -> None:
    spread = spread_of(0.9, 10_000, [])
    assert spread.limit == pytest.approx(1.96 * np.sqrt(2 * 0.9 * 0.1 / 10_000), rel=1e-3)
    assert spread.origin == "the binomial error of 10,000 test images; no run with another seed is known"
    assert "1 run with other seeds tell too little" in spread_of(0.9, 10_000, [0.91]).origin


def test_runs_with_other_seeds_tell_the_spread() -> None:
    random, inside, trials = np.random.default_rng(2), 0, 2000
    for _ in range(trials):
        *siblings, one, other = random.normal(0.9, 0.01, 6)
        inside += abs(one - other) <= spread_of(0.9, 10_000, siblings).limit
    assert inside / trials == pytest.approx(0.95, abs=0.015)
    assert spread_of(0.9, 10_000, [0.9, 0.91, 0.92]).origin == (
        "3 runs with other seeds, standard deviation 1.00 points"
    )


def test_equal_siblings_still_leave_room_for_one_image() -> None:
    assert spread_of(0.9, 100, [0.9, 0.9, 0.9]).limit == pytest.approx(0.01)
