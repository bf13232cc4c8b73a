"""The numbers of an evaluation: what a network computed for images, against their labels.

Counts and fractions are those of scikit-learn's `classification_report`, to the last digit.

Shapes: N images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.calibration import (
    Bin,
    Probabilities,
    calibration_error,
    cross_fitted,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    with_temperature,
)
from cifar10.analysis.classification_report import ClassScore, Score
from cifar10.analysis.honest import HonestScore, PeopleScore
from cifar10.analysis.intervals import Interval, wilson

_TOP = 5
_MOST_IN_MATRIX = 250  # classes whose confusion matrix is in the numbers: squared, they are most of a file


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network computes for some images."""

    plain: Probabilities
    """(N, K), of one view."""
    augmented: Probabilities
    """(N, K), with test-time augmentation; equal to `plain` without."""
    labels: NDArray[np.int64]
    """(N,); N is at least 1."""
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The answers, (N,), with test-time augmentation."""
        predicted: NDArray[np.int64] = self.augmented.argmax(axis=1)
        return predicted

    @cached_property
    def score(self) -> Score:
        """Confusion matrix and the scores of each class."""
        score = Score(self.class_names)
        np.add.at(score.confusion, (self.labels, self.predicted), 1)
        return score

    def worst(self, number: int) -> NDArray[np.int64]:
        """Return the positions of at most `number` wrong answers, the most confident ones first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        confidences = self.augmented[wrong].max(axis=1)
        return wrong[np.argsort(-confidences, kind="stable")[:number]]


@dataclass(frozen=True)
class Accuracy:
    """A fraction of correct answers with its 95 % interval, by Wilson."""

    value: float
    interval: Interval
    correct: int
    number: int

    @classmethod
    def of(cls, probabilities: Probabilities, labels: NDArray[np.int64], top: int = 1) -> "Accuracy":
        """Return the fraction of images whose label is among the `top` most probable classes.

        Of equally probable classes, those with the lower ids come first, as with `argmax`.
        """
        own = probabilities[np.arange(len(labels)), labels][:, None]
        is_lower = np.arange(probabilities.shape[1]) < labels[:, None]
        is_before = (probabilities > own) | ((probabilities == own) & is_lower)
        hits = int((is_before.sum(axis=1) < top).sum())
        return cls(hits / len(labels), wilson(hits, len(labels)), hits, len(labels))


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 over the classes that occur, as label or as answer; 0 / 0 counts as 0."""

    precision: float
    recall: float
    f1: float


def averages(classes: Sequence[ClassScore], is_weighted: bool) -> Averages:
    """Return the mean over classes, each counted once or by its images."""
    weights = [score.support for score in classes] if is_weighted else None
    columns = ([getattr(score, name) or 0.0 for score in classes] for name in ("precision", "recall", "f1"))
    return Averages(*(float(np.average(column, weights=weights)) for column in columns))


@dataclass(frozen=True)
class FittedTemperature:
    """The fitted temperature, with calibration error and cross-entropy of the scaled probabilities."""

    value: float
    """The smaller the cross-entropy, the better; 1 changes nothing."""
    fitted_on: str
    """Name of the split."""
    num_images: int
    is_cross_fitted: bool
    """Whether the images are those that are measured: then each half was scaled by what fits the other half."""
    calibration_error: float
    """Of the scaled probabilities, on the images that are measured."""
    loss: float
    """Likewise: mean cross-entropy."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of one view, and with a fitted temperature."""

    calibration_error: float
    calibration_error_tta: float
    mean_confidence: float
    bins: list[Bin]
    temperature: FittedTemperature | None
    """None: there are no images to fit it on."""
    temperature_on_training: float | None
    """What would be fitted on images that the network was trained on."""
    scaled_bins: list[Bin] | None


def calibrate(answers: Answers, held_out: Answers | None, trained: Answers | None, split: str) -> Calibration:
    """Measure the calibration, and fit a temperature on images that the network was not trained on.

    Args:
        answers: Of the images to measure.
        held_out: Of the validation images; None: there are none, or they are those to measure. Then the images to
            measure are scaled in two halves, unless they are training images.
        trained: Of training images, for comparison.
        split: Name of the images to measure: train, val or test.
    """
    bins = reliability(answers.plain, answers.labels)
    temperature, scaled_bins = None, None
    if held_out is not None or (len(answers) > 1 and split != "train"):
        fitting = held_out or answers
        value = fit_temperature(fitting.plain, fitting.labels)
        scaled = with_temperature(answers.plain, value)
        if held_out is None:
            scaled, _ = cross_fitted(answers.plain, answers.labels)
        scaled_bins = reliability(scaled, answers.labels)
        temperature = FittedTemperature(
            value=value,
            fitted_on=split if held_out is None else "val",
            num_images=len(fitting),
            is_cross_fitted=held_out is None,
            calibration_error=calibration_error(scaled_bins),
            loss=negative_log_likelihood(scaled, answers.labels),
        )
    return Calibration(
        calibration_error=calibration_error(bins),
        calibration_error_tta=calibration_error(reliability(answers.augmented, answers.labels)),
        mean_confidence=float(answers.plain.max(axis=1).mean()),
        bins=bins,
        temperature=temperature,
        temperature_on_training=None if trained is None else fit_temperature(trained.plain, trained.labels),
        scaled_bins=scaled_bins,
    )


@dataclass(frozen=True, eq=False)
class WorstErrors:
    """Wrong answers of the highest confidence."""

    positions: NDArray[np.int64]
    """(M,), in the split."""
    images: NDArray[np.uint8]
    """(M, S, S, 3)."""
    heat: NDArray[np.float32] | None
    """Grad-CAM of the predicted class, (M, S, S); None: the network has no feature map."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that a report shows."""

    name: str
    """Of the network."""
    split: str
    """Name of the images that are measured: train, val or test."""
    tta: str
    answers: Answers
    trained: Answers | None
    """Of training images; None if they are what is measured."""
    num_trained: int
    """Training images, of which `trained` may be a sample."""
    calibration: Calibration
    errors: WorstErrors
    corruptions: Mapping[str, Sequence[float]]
    """Kind -> accuracy of one view at each strength; empty if they were not measured."""
    honest: Sequence[HonestScore]
    """Empty if they were not measured."""
    people: PeopleScore | None
    origin: Sequence[tuple[str, str]]
    """What was computed, with what and when."""

    @property
    def corruption_error(self) -> float | None:
        """Mean over kinds and strengths of the fraction of wrong answers; None if it was not measured."""
        means = [np.mean(accuracies) for accuracies in self.corruptions.values()]
        return 1 - float(np.mean(means)) if means else None

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the report as plain values, for JSON."""
        answers, errors = self.answers, self.errors.positions.tolist()
        numbers: dict[str, Any] = {
            **_numbers_of(answers),
            "calibration": asdict(self.calibration),
            "errors": [
                {
                    "position": position,
                    "class": answers.class_names[answers.labels[position]],
                    "predicted": answers.class_names[answers.predicted[position]],
                    "confidence": float(answers.augmented[position].max()),
                }
                for position in errors
            ],
        }
        if self.trained is not None:
            numbers["train"] = {**_numbers_of(self.trained), "num_all_images": self.num_trained}
        if self.corruptions:
            numbers["corruptions"] = {kind: list(values) for kind, values in self.corruptions.items()}
            numbers["corruption_error"] = self.corruption_error
        if self.honest:
            numbers["honest"] = [asdict(score) for score in self.honest]
            numbers["people"] = None if self.people is None else asdict(self.people)
        return numbers


def _numbers_of(answers: Answers) -> dict[str, Any]:
    """Return the scores of `answers` as plain values, for JSON."""
    names = ("plain", "tta")
    both = dict(zip(names, (answers.plain, answers.augmented), strict=True))
    top = min(_TOP, len(answers.class_names))
    confusion = answers.score.confusion
    return {
        "num_images": len(answers),
        "accuracy": {name: asdict(Accuracy.of(each, answers.labels)) for name, each in both.items()},
        f"top{top}": {name: asdict(Accuracy.of(each, answers.labels, top)) for name, each in both.items()},
        "loss": {name: negative_log_likelihood(each, answers.labels) for name, each in both.items()},
        "macro": asdict(averages(answers.score.classes, is_weighted=False)),
        "weighted": asdict(averages(answers.score.classes, is_weighted=True)),
        "classes": [asdict(score) for score in answers.score.classes],
        "confusion": confusion.tolist() if len(confusion) <= _MOST_IN_MATRIX else None,  # else in confusion.csv only
    }
