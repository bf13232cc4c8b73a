"""Classification report: precision, recall and F1 of each class, and the confusion matrix.

Shapes: K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar10.data.class_names import printable

_MOST_CLASSES = 30
_MOST_CONFUSIONS = 5


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class; None where they are 0 / 0."""

    name: str
    precision: float | None
    """Fraction of the predictions of this class that are correct."""
    recall: float | None
    """Fraction of the images of this class that are predicted as such."""
    f1: float | None
    """Harmonic mean of precision and recall."""
    support: int
    """Number of images of this class."""


class Score:
    """Counts predictions whose true class is known.

    Args:
        class_names: In the order of their ids.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.confusion: NDArray[np.int64] = np.zeros((len(self.class_names),) * 2, np.int64)
        """Confusion matrix, (K, K): images of class [row] that were predicted as class [column]."""

    def add(self, label: int, predicted: int) -> None:
        """Count an image of class `label` that was predicted as class `predicted`."""
        self.confusion[label, predicted] += 1

    @property
    def total(self) -> int:
        """Images counted."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float | None:
        """Between 0 and 1; None before anything was counted."""
        return _ratio(self.correct, self.total)

    @property
    def classes(self) -> list[ClassScore]:
        """One score per class that occurs, as true or as predicted class, in the order of their ids."""
        correct, support = self.confusion.diagonal().tolist(), self.confusion.sum(axis=1).tolist()
        predicted = self.confusion.sum(axis=0).tolist()
        return [
            ClassScore(name, _ratio(hits, found), _ratio(hits, true), _ratio(2 * hits, true + found), true)
            for name, hits, true, found in zip(self.class_names, correct, support, predicted, strict=True)
            if true or found
        ]

    def confusions(self, most: int = _MOST_CONFUSIONS) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, number of images) of the most frequent mistakes, most frequent first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most].tolist()
        pairs = [divmod(index, len(wrong)) for index in order]
        names = self.class_names
        return [(names[true], names[other], int(wrong[true, other])) for true, other in pairs if wrong[true, other]]

    def report(self) -> str:
        """Return a table of the classes, the worst ones if they are many, and a line of the most frequent mistakes."""
        classes, title = self.classes, "class"
        if len(classes) > _MOST_CLASSES:
            title = f"class ({_MOST_CLASSES} of {len(classes)}, lowest F1 first)"
            classes = sorted(classes, key=lambda score: score.f1 or 0.0)[:_MOST_CLASSES]
        rows: list[tuple[str, ...]] = [(title, "precision", "recall", "f1", "images")]
        for score in classes:
            ratios = ("-" if x is None else f"{x:.3f}" for x in (score.precision, score.recall, score.f1))
            rows.append((printable(score.name), *ratios, str(score.support)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in rows]
        mistakes = ", ".join(
            f"{printable(true)} taken for {printable(other)} {count}x" for true, other, count in self.confusions()
        )
        return "\n".join([*lines, f"most frequent mistakes: {mistakes or 'none'}"])


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
