"""Several trained networks side by side: what differs in their settings, and in their answers for the same images.

Runs that differ by their seed only are one side of the comparison. If there is no other side, each run is one.

Shapes: N images, K classes.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.evaluation import Accuracy
from cifar10.analysis.intervals import wilson
from cifar10.analysis.network_differences import NetworkPair, compare_networks, compare_recipes
from cifar10.analysis.paired_differences import Difference
from cifar10.types import Metrics


@dataclass(frozen=True, eq=False)
class TestAnswers:
    """What a network answers for the test images, with its own test-time augmentation."""

    __test__ = False  # of pytest

    predicted: NDArray[np.int64]
    """The most probable class of each image, (N,)."""
    confidence: NDArray[np.float32]
    """Its probability, (N,)."""
    plain: NDArray[np.int64]
    """The most probable class without test-time augmentation, (N,)."""
    tta: str

    def take(self, positions: NDArray[np.int64]) -> "TestAnswers":
        """Return the answers for the images at `positions`, in this order."""
        return TestAnswers(self.predicted[positions], self.confidence[positions], self.plain[positions], self.tta)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run of a comparison."""

    name: str
    """Different for each run."""
    seed: int
    recipe: object
    """Equal for runs that differ by their seed only."""
    settings: Mapping[str, str]
    origin: Mapping[str, str]
    history: Sequence[Metrics]
    scores: Mapping[str, float]
    """As recorded."""
    weights: str | None
    """Digest of the weights; None: they are not at hand."""
    answers: TestAnswers | None
    problem: str = ""
    """Why there are no answers."""


@dataclass(frozen=True, eq=False)
class Side:
    """One run, or several that differ by their seed only."""

    name: str
    runs: Sequence[ComparedRun]

    @property
    def answering(self) -> list[ComparedRun]:
        """The runs whose answers can be compared; of several with the same weights, the first."""
        return distinct([run for run in self.runs if run.answers is not None])

    @property
    def title(self) -> str:
        """The name, and how many runs it stands for."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"


def distinct(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs without those that have the same weights as an earlier one."""
    seen: dict[str, ComparedRun] = {}
    for run in runs:
        seen.setdefault(run.weights or run.name, run)
    return list(seen.values())


def sides_of(runs: Sequence[ComparedRun]) -> list[Side]:
    """Return the sides, in the order in which they were named."""
    groups: dict[object, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    if len(groups) == 1:
        return [Side(run.name, [run]) for run in runs]
    names = [_common_name([run.name for run in group]) for group in groups.values()]
    counts = Counter(names)
    return [
        Side(name if counts[name] == 1 and name else group[0].name, group)
        for name, group in zip(names, groups.values(), strict=True)
    ]


def _common_name(names: Sequence[str]) -> str:
    """Return the part that the names begin with, without a part of a number at its end."""
    if len(names) == 1:
        return names[0]
    num_shared = sum(1 for _ in itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return names[0][:num_shared].rstrip("0123456789").rstrip(" -_.+/(=") or names[0]


def differing(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str | None]]]:
    """Return each key whose values are not all equal, with its value in each column; None: the column lacks it."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [(key, [column.get(key) for column in columns]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


@dataclass(frozen=True, eq=False)
class TestImages:
    """The images that all compared answers are about."""

    __test__ = False

    labels: NDArray[np.int64]
    """(N,)."""
    class_names: tuple[str, ...]
    name: str
    """Of the data set."""


@dataclass(frozen=True, eq=False)
class Flips:
    """Images that one of two networks recognises and the other does not."""

    first: Side
    second: Side
    only_first: NDArray[np.int64]
    """Positions, the clearest cases first: those on which most seeds agree, then the most confident answers."""
    only_second: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that a report shows."""

    runs: Sequence[ComparedRun]
    images: TestImages | None
    """None: no two runs can be compared by their answers."""
    origin: Sequence[tuple[str, str]] = field(default=())

    @cached_property
    def sides(self) -> list[Side]:
        return sides_of(self.runs)

    @property
    def is_one_recipe(self) -> bool:
        """Whether all runs differ by their seed only."""
        return len({run.recipe for run in self.runs}) == 1

    @property
    def answering(self) -> list[ComparedRun]:
        """The runs whose answers are compared."""
        return [run for run in self.runs if run.answers is not None]

    @property
    def answering_sides(self) -> list[Side]:
        return [side for side in self.sides if side.answering]

    @cached_property
    def settings(self) -> list[tuple[str, list[str | None]]]:
        """The settings that differ between the sides: key, and the value of each; without the seed."""
        rows = differing([side.runs[0].settings for side in self.sides])
        return [row for row in rows if row[0] != "seed"]

    @cached_property
    def origins(self) -> list[tuple[str, list[str | None]]]:
        """What else differs between runs: data, code, versions, machine."""
        return differing([run.origin for run in self.runs])

    def is_right(self, run: ComparedRun) -> NDArray[np.bool_]:
        """Return whether each image is classified correctly by a run that has answers, (N,)."""
        assert self.images is not None and run.answers is not None
        right: NDArray[np.bool_] = run.answers.predicted == self.images.labels
        return right

    @cached_property
    def pairs(self) -> list[NetworkPair]:
        """Pairs of networks."""
        if self.images is None:
            return []
        return compare_networks({run.name: self.is_right(run) for run in self.answering})

    @cached_property
    def differences(self) -> list[Difference]:
        """Differences between recipes; none if there is only one."""
        if self.images is None or self.is_one_recipe:
            return []
        sides = self.answering_sides
        return compare_recipes(
            {side.name: [(run.seed, self.is_right(run)) for run in side.answering] for side in sides}
        )

    def accuracy(self, run: ComparedRun, plain: bool = False) -> Accuracy:
        """Return the accuracy of a run that has answers."""
        assert self.images is not None and run.answers is not None
        answers = run.answers.plain if plain else run.answers.predicted
        hits, number = int((answers == self.images.labels).sum()), len(answers)
        return Accuracy(hits / number, wilson(hits, number), hits, number)

    def recalls(self, side: Side) -> NDArray[np.float64]:
        """Return the recall of each class, (K,), averaged over the runs of a side; NaN: there is no image."""
        assert self.images is not None
        right = np.mean(np.stack([self.is_right(run) for run in side.answering]), axis=0)
        num_classes = len(self.images.class_names)
        counts = np.bincount(self.images.labels, minlength=num_classes)
        sums = np.bincount(self.images.labels, weights=right, minlength=num_classes)
        recalls: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return recalls

    def flips(self, first: Side, second: Side) -> Flips:
        """Return the images whose answer flips between the first runs of two sides."""
        one, other = first.answering[0], second.answering[0]
        assert one.answers is not None and other.answers is not None
        agreement = np.mean(np.stack([self.is_right(run) for run in first.answering]), axis=0) - np.mean(
            np.stack([self.is_right(run) for run in second.answering]), axis=0
        )
        certainty = one.answers.confidence + other.answers.confidence
        right, others_right = self.is_right(one), self.is_right(other)
        ours, theirs = np.flatnonzero(right & ~others_right), np.flatnonzero(others_right & ~right)
        return Flips(
            first=first,
            second=second,
            only_first=ours[np.lexsort((-certainty[ours], -agreement[ours]))],
            only_second=theirs[np.lexsort((-certainty[theirs], agreement[theirs]))],
        )

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the report as plain values, for JSON."""
        columns = [side.name for side in self.sides]
        return {
            "runs": [self._numbers_of(run) for run in self.runs],
            "sides": {side.name: [run.name for run in side.runs] for side in self.sides},
            "settings": {key: dict(zip(columns, values, strict=True)) for key, values in self.settings},
            "networks": [{**asdict(pair), "is_beyond_chance": pair.is_beyond_chance} for pair in self.pairs],
            "recipes": [{**asdict(each), "is_beyond_chance": each.is_beyond_chance} for each in self.differences],
            "recall": self._recalls(),
        }

    def _numbers_of(self, run: ComparedRun) -> dict[str, Any]:
        numbers: dict[str, Any] = {
            "name": run.name,
            "seed": run.seed,
            "settings": dict(run.settings),
            "origin": dict(run.origin),
            "recorded_scores": dict(run.scores),
        }
        if run.answers is None:
            return {**numbers, "problem": run.problem}
        accuracies = {"tta": self.accuracy(run), "plain": self.accuracy(run, plain=True)}
        return {
            **numbers,
            "tta": run.answers.tta,
            "accuracy": {name: asdict(accuracy) for name, accuracy in accuracies.items()},
        }

    def _recalls(self) -> dict[str, dict[str, float | None]]:
        if self.images is None:
            return {}
        names = self.images.class_names
        return {
            side.name: {
                name: None if np.isnan(recall) else float(recall)
                for name, recall in zip(names, self.recalls(side), strict=True)
            }
            for side in self.answering_sides
        }
