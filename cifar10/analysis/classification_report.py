"""How right the answers are, class by class: precision, recall, F1, and what is taken for what.

Shapes: K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_CLASSES = 30
_MOST_CONFUSIONS = 5


@dataclass(frozen=True)
class ClassScore:
    """One class; None stands for 0 / 0."""

    name: str
    precision: float | None
    """Part of the answers that named this class and were right."""
    recall: float | None
    """Part of its images that were found."""
    f1: float | None
    """Harmonic mean of the two."""
    support: int
    """How many images are of it."""


class Score:
    """Counts answers whose truth is known.

    Args:
        class_names: In the order of their ids.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.confusion: NDArray[np.int64] = np.zeros((len(self.class_names),) * 2, np.int64)
        """(K, K): images of class [row] taken for class [column]."""

    def add(self, label: int, answer: int) -> None:
        """Count an image of class `label` that was taken for class `answer`."""
        self.confusion[label, answer] += 1

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
        """One score a class that occurs, as truth or as answer, in the order of their ids."""
        right, support = self.confusion.diagonal().tolist(), self.confusion.sum(axis=1).tolist()
        answered = self.confusion.sum(axis=0).tolist()
        return [
            ClassScore(name, _ratio(hit, said), _ratio(hit, true), _ratio(2 * hit, true + said), true)
            for name, hit, true, said in zip(self.class_names, right, support, answered, strict=True)
            if true or said
        ]

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """(true class, answer, number of images) of the most frequent mistakes, most frequent first."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS].tolist()
        pairs = [divmod(index, len(wrong)) for index in order]
        names = self.class_names
        return [(names[true], names[said], int(wrong[true, said])) for true, said in pairs if wrong[true, said]]

    def report(self) -> str:
        """Return a table of the classes, if they are many of the worst ones, and a line of confusions."""
        classes, title = self.classes, "class"
        if len(classes) > _MOST_CLASSES:
            title = f"class ({_MOST_CLASSES} of {len(classes)}, lowest F1 first)"
            classes = sorted(classes, key=lambda score: score.f1 or 0.0)[:_MOST_CLASSES]
        cells = [
            (score.name, *map(_text, (score.precision, score.recall, score.f1)), str(score.support))
            for score in classes
        ]
        told = ", ".join(f"{true} taken for {said} {count}x" for true, said, count in self.confusions)
        table = _aligned([(title, "precision", "recall", "f1", "images"), *cells])
        return "\n".join([*table, f"most frequent mistakes: {told or 'none'}"])


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return `rows` as lines, the first column flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
