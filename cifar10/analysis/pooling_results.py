"""What a comparison of ways to shrink feature maps has found: one value for each way and seed, and the verdict.

Shapes: N images of a split, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.classification_report import Score
from cifar10.analysis.overfitting import Overfitting, measure_overfitting
from cifar10.analysis.paired_differences import Difference, Interval, compare_all, seed_interval
from cifar10.types import Metrics

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SeedResult:
    """One run: a way, trained with a seed."""

    name: str
    """Of its folder."""
    history: Sequence[Metrics]
    """One entry per epoch."""
    best_epoch: int
    """Epoch, from 1, of the weights that were kept and are evaluated."""
    predictions: Mapping[str, NDArray[np.int64]]
    """Split -> the most probable class of each image, (N,)."""
    train_seconds: float
    """Wall time of all epochs."""

    @property
    def epoch_seconds(self) -> float:
        """The median over epochs."""
        return float(np.median([epoch["seconds"] for epoch in self.history]))

    @cached_property
    def overfitting(self) -> Overfitting:
        return measure_overfitting(self.history)


@dataclass(frozen=True)
class WayResult:
    """All runs of a way to shrink, by seed."""

    name: str
    runs: Mapping[int, SeedResult]


@dataclass(frozen=True)
class PoolingResults:
    """All ways."""

    class_names: Sequence[str]
    labels: Mapping[str, NDArray[np.int64]]
    """Split -> true classes, (N,)."""
    ways: Sequence[WayResult]
    failures: Mapping[str, str]
    """Run -> the reason why it has no result."""

    def is_right(self, split: str) -> dict[str, dict[int, NDArray[np.bool_]]]:
        """Return way -> seed -> whether each image is classified correctly, (N,)."""
        labels = self.labels[split]
        return {
            way.name: {seed: run.predictions[split] == labels for seed, run in way.runs.items()} for way in self.ways
        }

    def accuracy(self, way: WayResult, split: str) -> Interval:
        """Return the mean accuracy over seeds, with its interval, which ends at 0 and 1."""
        right = self.is_right(split)[way.name]
        interval = seed_interval(np.array([float(each.mean()) for each in right.values()]))
        if not np.isfinite(interval.low):
            return interval
        return Interval(interval.value, max(interval.low, 0.0), min(interval.high, 1.0))

    def score(self, way: WayResult, split: str) -> Score:
        """Return precision, recall and F1 of each class, over all seeds together."""
        score = Score(self.class_names)
        for run in way.runs.values():
            np.add.at(score.confusion, (self.labels[split], run.predictions[split]), 1)
        return score

    @cached_property
    def differences(self) -> list[Difference]:
        """Of the accuracy on the test images, for each pair of ways."""
        return compare_all(self.is_right("test"))

    @cached_property
    def winner(self) -> tuple[WayResult, int]:
        """The way that is right on most validation images, and its seed that is: test images choose nothing."""
        way = max(self.ways, key=lambda way: self.accuracy(way, "validation").value)
        right = self.is_right("validation")[way.name]
        return way, max(right, key=lambda seed: float(right[seed].mean()))

    @cached_property
    def verdict(self) -> list[str]:
        """In sentences: what the differences on the test images say, and why the winner is the winner."""
        way, seed = self.winner
        beyond = [each if each.interval.value > 0 else each.of(each.second) for each in self.differences]
        beyond = [each for each in beyond if each.is_beyond_chance]
        others = [each for each in self.differences if not each.is_beyond_chance]
        sentences = [f"{each.first} is better than {each.second}: {points(each.interval)} points." for each in beyond]
        if not beyond:
            sentences.append("No difference beyond chance between the ways.")
        elif others:
            pairs = " and between ".join(f"{each.first} and {each.second} ({points(each.interval)})" for each in others)
            sentences.append(f"No difference beyond chance between {pairs}.")
        accuracies = ", ".join(f"{each.name} {self.accuracy(each, 'validation').value:.1%}" for each in self.ways)
        sentences.append(
            f"The winner is {way.name}, which is right on most validation images ({accuracies}, means over seeds). "
            f"Of its runs, the one with seed {seed} is, and is kept."
        )
        better = [each.first for each in beyond if each.second == way.name]
        if better:
            sentences.append(
                f"The test images say otherwise: there {' and '.join(better)} is better beyond chance. More seeds, or "
                "more validation images, choose more surely."
            )
        elif not any(each.first == way.name for each in beyond):
            sentences.append("It may be the winner by chance.")
        return sentences


def points(interval: Interval) -> str:
    """Return a difference of accuracies in percentage points, with its interval."""
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    return f"{value:+.1f}, {low:+.1f} to {high:+.1f}"


def percent(interval: Interval) -> str:
    """Return an accuracy with half the width of its interval, or with its ends if it reaches 0 or 1."""
    half = 100 * (interval.high - interval.value)
    if not np.isfinite(half):
        return f"{interval.value:.1%}"
    if interval.low <= 0 or interval.high >= 1:
        return f"{interval.value:.1%} ({100 * interval.low:.0f} to {100 * interval.high:.0f})"
    return f"{interval.value:.1%} ± {half:.1f}"
