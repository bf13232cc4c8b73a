"""Differences between recipes are called so if they are beyond chance, of seeds and of images."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cifar10.analysis.paired_differences import SeedChance, compare_all, crossed_interval, seed_interval


def draw(
    random: np.random.Generator, accuracy: float, of_seed: float, of_recipe: float, seeds: int, images: int
) -> NDArray[np.bool_]:
    """Return answers of a recipe: whether each is right depends on the image, on the seed, and on chance.

    The hardness of an image is in part the same for all recipes, and in part the recipe's own.
    """
    hardness = np.random.default_rng(9).normal(0, 1, images) + random.normal(0, of_recipe, images)
    level = stats.norm.ppf(accuracy) * np.sqrt(2 + of_seed**2 + of_recipe**2)
    answers: NDArray[np.bool_] = (
        level + hardness + random.normal(0, of_seed, (seeds, 1)) + random.normal(0, 1, (seeds, images)) > 0
    )
    return answers


def test_without_chance_in_the_images_it_is_students_interval_over_seeds() -> None:
    per_seed = np.array([0.01, 0.04, 0.02, 0.05])
    values = np.repeat(per_seed[:, None], 500, axis=1)
    interval = crossed_interval(values, SeedChance.of([values], num_recipes=2))
    known = seed_interval(per_seed)
    low, high = stats.t.interval(0.95, 3, per_seed.mean(), stats.sem(per_seed))
    assert (known.low, known.high) == pytest.approx((low, high))
    assert (interval.value, interval.low, interval.high) == pytest.approx((known.value, low, high))


def test_without_chance_in_the_seeds_it_is_students_interval_over_images() -> None:
    per_image = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 400)
    values = np.repeat(per_image[None], 5, axis=0)
    interval = crossed_interval(values, SeedChance.of([values], num_recipes=2))
    low, high = stats.t.interval(0.95, 399, per_image.mean(), stats.sem(per_image))
    assert (interval.low, interval.high) == pytest.approx((low, high))


@pytest.mark.slow
@pytest.mark.parametrize(("of_seed", "of_recipe"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.1, 0.3)])
def test_equal_recipes_are_rarely_called_different(of_seed: float, of_recipe: float) -> None:
    random = np.random.default_rng(1)
    false, trials = 0, 300
    for _ in range(trials):
        answers = {name: dict(enumerate(draw(random, 0.6, of_seed, of_recipe, 3, 300))) for name in ("a", "b", "c")}
        false += any(difference.is_beyond_chance for difference in compare_all(answers))
    assert false / trials < 0.07  # 0.05 is meant


def test_a_real_difference_is_found_and_turned_round() -> None:
    random = np.random.default_rng(2)
    answers = {name: dict(enumerate(draw(random, level, 0.1, 0.3, 5, 600))) for name, level in (("a", 0.5), ("b", 0.7))}
    [difference] = compare_all(answers)
    assert difference.is_beyond_chance and difference.interval.value < -0.1
    turned = difference.of("b")
    assert (turned.first, turned.second, turned.interval.value) == ("b", "a", -difference.interval.value)
    assert turned.interval.low == -difference.interval.high and turned.of("a") == difference


def test_one_seed_proves_nothing() -> None:
    right, wrong = np.ones(200, bool), np.zeros(200, bool)
    wrong[:5] = True
    [difference] = compare_all({"a": {0: right}, "b": {0: wrong}})
    assert difference.interval.excludes_zero and not difference.is_beyond_chance
    assert seed_interval(np.array([0.5])).high == np.inf


def test_only_seeds_that_both_have_are_compared() -> None:
    answers = np.random.default_rng(3).random((3, 50)) < 0.5
    [difference] = compare_all({"a": {0: answers[0], 1: answers[1]}, "b": {1: answers[2]}})
    assert difference.num_seeds == 1
    assert compare_all({"a": {0: answers[0]}, "b": {1: answers[1]}}) == []


def test_answers_that_are_all_equal_give_an_interval_of_no_width() -> None:
    same = np.ones((3, 20), bool)
    [difference] = compare_all({"a": dict(enumerate(same)), "b": dict(enumerate(same))})
    assert (difference.interval.low, difference.interval.high) == (0, 0) and not difference.is_beyond_chance
