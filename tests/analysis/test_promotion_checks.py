"""Checks before an alias moves: what holds, what fails, and the numbers in their words."""

import numpy as np
import pytest

from cifar10.analysis.promotion_checks import accuracy_check, floor_check, latency_check, tags_of

LABELS = np.arange(100) % 10


def right(number: int, of: int = 100) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return that the first images are classified correctly."""
    return np.arange(of) < number


def test_the_floor_is_the_share_of_the_most_frequent_class_and_the_interval_must_exceed_it() -> None:
    assert floor_check(right(40), LABELS, None).holds
    by_chance = floor_check(right(14), LABELS, None)
    assert by_chance.holds is False
    assert "14.00%" in by_chance.found and "not above 10.00%, the share of the most frequent class" in by_chance.found
    mostly_one = np.array([0] * 90 + [1] * 10)
    assert floor_check(right(90), mostly_one, None).holds is False  # as good as to answer 0 always
    assert floor_check(right(40), LABELS, 0.5).holds is False
    assert "promotion.floor" in floor_check(right(40), LABELS, 0.5).found


def test_a_network_may_be_worse_by_chance_only() -> None:
    same, pair = accuracy_check(right(90), right(90), "version 1")
    assert same.holds and pair.p_value == 1
    slightly, _ = accuracy_check(right(88), right(90), "version 1")
    assert slightly.holds
    worse, pair = accuracy_check(right(70), right(90), "version 1")
    assert worse.holds is False
    assert pair.only_second == 20 and pair.p_value == pytest.approx(2 * 0.5**20)
    assert "70.00%, version 1 90.00% on the same 100 images" in worse.found
    assert "only that one on 20: worse beyond chance (p = 1.9e-06)" in worse.found
    better, _ = accuracy_check(right(90), right(70), "version 1")
    assert better.holds


def test_answers_are_compared_image_by_image() -> None:
    other = np.roll(right(80), 10)  # as many correct answers, for other images
    check, pair = accuracy_check(right(80), other, "version 1")
    assert check.holds and (pair.only_first, pair.only_second) == (10, 10)


def test_latency_is_a_ratio_and_only_measured_without_another_network() -> None:
    assert latency_check(0.003, 0.002, "version 1", 1.5).holds
    slow = latency_check(0.0031, 0.002, "version 1", 1.5)
    assert slow.holds is False
    assert slow.found == "3.10 ms for one image (median), version 1 2.00 ms: 1.55 times as long, more than 1.5"
    alone = latency_check(0.003, None, "", 1.5)
    assert alone.holds is None and alone.found == "3.00 ms for one image (median)"


def test_tags_say_what_was_found() -> None:
    tags = tags_of([latency_check(0.003, None, "", 1.5), floor_check(right(40), LABELS, None)])
    assert tags["promotion.latency"] == "measured: 3.00 ms for one image (median)"
    assert tags["promotion.floor"].startswith("holds: 40.00%")
