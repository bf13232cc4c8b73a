"""Networks and recipes are called different if they are by more than chance, and else not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cifar10.analysis.network_differences import class_differences, compare_networks, compare_recipes, mcnemar


def right(number: int, total: int = 100) -> NDArray[np.bool_]:
    return np.arange(total) < number


@pytest.mark.parametrize(("ours", "theirs"), [(0, 5), (3, 12), (40, 41), (7, 7), (1, 0)])
def test_mcnemar_is_the_two_sided_binomial_test(ours: int, theirs: int) -> None:
    total = ours + theirs
    tail = sum(stats.binom.pmf(count, total, 0.5) for count in range(min(ours, theirs) + 1))
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail))


def test_a_class_of_few_images_does_not_differ_beyond_chance() -> None:
    labels = np.repeat([0, 1], [4, 60])
    ours, theirs = np.ones(64, bool), np.zeros(64, bool)
    few, many = class_differences(([ours], [theirs]), labels, 2)
    assert few is not None and many is not None
    assert few.value == many.value == 1
    assert not few.excludes_zero  # four coins fall to one side in one of eight cases
    assert many.excludes_zero and many.low < many.high <= 1
    [turned, _] = class_differences(([theirs], [ours]), labels, 2)
    assert turned is not None and (turned.low, turned.high) == (-few.high, -few.low) and turned.low >= -1


def test_networks_that_recognise_the_same_images_do_not_differ() -> None:
    [pair] = compare_networks({"a": right(60), "b": right(60)})
    assert (pair.both, pair.only_first, pair.only_second, pair.neither) == (60, 0, 0, 40)
    assert pair.p_value == 1 and not pair.is_beyond_chance
    assert pair.num_images == 100


def test_the_images_of_only_one_network_decide() -> None:
    [few] = compare_networks({"a": right(60), "b": right(57)})
    [many] = compare_networks({"a": right(60), "b": right(48)})
    assert (few.only_first, few.is_beyond_chance) == (3, False)
    assert (many.only_first, many.is_beyond_chance) == (12, True)
    assert many.interval.value == pytest.approx(0.12) and many.interval.low > 0


def test_many_pairs_need_a_clearer_difference() -> None:
    answers = {f"network {number}": right(54) for number in range(9)} | {"other": right(46)}
    [alone] = compare_networks({"network 0": right(54), "other": right(46)})
    pairs = compare_networks(answers)
    assert len(pairs) == 45
    assert alone.is_beyond_chance and not any(pair.is_beyond_chance for pair in pairs)
    assert pairs[8].p_value == pytest.approx(45 * alone.p_value)
    assert {pair.first for pair in compare_networks({**answers, "eleventh": right(54)})} == {"network 0"}


def test_equal_networks_are_rarely_called_different() -> None:
    random = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        hard = random.random(300)
        one, other = (random.random(300) < hard for _ in range(2))
        [pair] = compare_networks({"a": one, "b": other})
        found += pair.is_beyond_chance
    assert found / 400 < 0.06


def test_recipes_are_paired_by_seed_if_they_share_seeds_else_in_order() -> None:
    ours = [(3, right(62)), (1, right(60))]
    [shared] = compare_recipes({"a": ours, "b": [(1, right(50)), (3, right(52))]})
    [others] = compare_recipes({"a": ours, "b": [(8, right(50)), (9, right(52)), (7, right(55))]})
    assert shared.num_seeds == others.num_seeds == 2
    assert shared.interval.value == pytest.approx(0.10)
    assert others.interval.value == pytest.approx((0.60 + 0.62 - 0.55 - 0.50) / 2)


def test_classes_with_one_image_have_no_interval() -> None:
    labels = np.array([0] * 50 + [1] * 49 + [2])
    first, second, third = class_differences(([right(100)], [right(30), right(40)]), labels, 3)
    assert third is None
    assert first is not None and second is not None
    assert first.value == pytest.approx(0.3) and first.excludes_zero
    assert second.value == pytest.approx(1.0)
