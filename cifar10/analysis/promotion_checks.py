"""What a network must hold to get an alias: checks with their numbers in words.

Shapes: N test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.intervals import wilson
from cifar10.analysis.network_differences import NetworkPair, compare_networks


@dataclass(frozen=True)
class Check:
    """One condition."""

    name: str
    holds: bool | None
    """None: it was measured, and there is nothing to compare it with."""
    found: str
    """One line with the numbers."""

    @property
    def outcome(self) -> str:
        """In a word."""
        return {True: "holds", False: "fails", None: "measured"}[self.holds]

    @property
    def line(self) -> str:
        """Name, outcome and numbers, for people."""
        return f"{self.name:<12} {self.outcome:<8}  {self.found}"


def tags_of(checks: Sequence[Check]) -> dict[str, str]:
    """Return tags of a version that say what was found."""
    return {f"promotion.{check.name}": f"{check.outcome}: {check.found}" for check in checks}


def floor_check(is_right: NDArray[np.bool_], labels: NDArray[np.int64], floor: float | None) -> Check:
    """Return whether the lower end of the accuracy's interval exceeds a floor.

    Args:
        is_right: Whether each image is classified correctly, (N,).
        labels: (N,).
        floor: None: the share of the most frequent class.
    """
    hits, number = int(is_right.sum()), len(labels)
    interval = wilson(hits, number)
    share = float(np.bincount(labels).max()) / number
    least = share if floor is None else floor
    what = "the share of the most frequent class" if floor is None else "promotion.floor"
    holds = interval.low > least
    relation = "above" if holds else "whose lower end is not above"
    found = (
        f"{hits / number:.2%}, 95 % interval {interval.low:.2%} to {interval.high:.2%}, {relation} {least:.2%}, {what}"
    )
    return Check("floor", holds, found)


def accuracy_check(own: NDArray[np.bool_], other: NDArray[np.bool_], other_name: str) -> tuple[Check, NetworkPair]:
    """Return whether a network is not worse than another beyond chance, by McNemar's exact test at 5 %.

    Args:
        own: Whether each image is classified correctly, (N,).
        other: The same of the other network.
        other_name: Of the other network, for the words.
    """
    [pair] = compare_networks({"this": own, other_name: other})
    is_worse = pair.is_beyond_chance and pair.only_second > pair.only_first
    low, high = 100 * pair.interval.low, 100 * pair.interval.high
    verdict = "worse beyond chance" if is_worse else "not worse beyond chance"
    found = (
        f"{own.mean():.2%}, {other_name} {other.mean():.2%} on the same {pair.num_images:,} images; only this one is "
        f"right on {pair.only_first:,}, only that one on {pair.only_second:,}: {verdict} (p = {pair.p_value:.2g}); "
        f"difference {low:+.2f} to {high:+.2f} points"
    )
    return Check("accuracy", not is_worse, found), pair


def latency_check(own: float, other: float | None, other_name: str, factor: float) -> Check:
    """Return whether a network takes no more than `factor` times as long for one image as another.

    Args:
        own: Median, in seconds.
        other: The same of the other network; None: there is none.
        other_name: Of the other network, for the words.
        factor: Largest ratio.
    """
    shown = f"{1000 * own:.2f} ms for one image (median)"
    if other is None:
        return Check("latency", None, shown)
    ratio = own / other
    relation = "at most" if ratio <= factor else "more than"
    found = f"{shown}, {other_name} {1000 * other:.2f} ms: {ratio:.2f} times as long, {relation} {factor:g}"
    return Check("latency", ratio <= factor, found)
