"""Accuracy on CIFAR-10's test split in the light of what others found out about its images.

Some test images have a near-duplicate in the training split, so they test memory (Barz and Denzler, arXiv:1902.00423).
Some labels are rejected by people (Northcutt et al., arXiv:2103.14749). And for each image it is known how about fifty
people labelled it (Peterson et al., arXiv:1908.07086).

Shapes: N images of the published test split, in its order; K classes.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cifar10.analysis.calibration import Probabilities, with_temperature
from cifar10.analysis.intervals import Interval, mean_interval, wilson
from cifar10.data.class_names import ClassFolders
from cifar10.data.image_dataset import Split
from cifar10.data.published_labels import DUPLICATES, PEOPLE, VERDICTS
from cifar10.errors import UserError, first_line

PUBLISHED_TEST = "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56"
"""SHA-256 of the pixels of CIFAR-10's test split in its published order, (10000, 3, 32, 32)."""
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NUM_IMAGES = 10_000
_MAJORITY = 3  # of five people
_LEAST = 1e-12

Array = TypeVar("Array")


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known about the test images; None: the file is not at hand."""

    has_twin: NDArray[np.bool_] | None
    """(N,): whether there is a near-duplicate in the training split."""
    is_rejected: NDArray[np.bool_] | None
    """(N,): whether fewer than three of five people agreed with the label."""
    people: NDArray[np.float64] | None
    """(N, K): the fraction of people who gave each label; columns in the published order of the classes."""


@dataclass(frozen=True)
class HonestScore:
    """Accuracy on a subset of the test images."""

    name: str
    num_images: int
    accuracy: float
    interval: Interval
    is_remainder: bool = False
    """Whether these are the images that others leave out."""


@dataclass(frozen=True)
class PeopleScore:
    """A network against the labels of many people."""

    accuracy: float
    """Probability that a person gives an image the label that the network gives it, averaged over the images."""
    interval: Interval
    cross_entropy: float
    """Of the network's probabilities against the fractions of people, in nats."""
    scaled_cross_entropy: float | None
    """Likewise, with the fitted temperature; None: none was fitted."""
    entropy: float
    """The smallest cross-entropy that is possible: that of the fractions themselves."""
    agreement: float
    """Probability that two people give an image the same label."""
    label_accuracy: float
    """Probability that a person gives an image its published label."""


def is_published_test_split(split: Split) -> bool:
    """Return whether these are all test images of CIFAR-10 in the published order; the labels may have other ids."""
    if tuple(split.images.shape) != (_NUM_IMAGES, 3, 32, 32):
        return False
    return hashlib.sha256(split.images[:].contiguous().numpy().data).hexdigest() == PUBLISHED_TEST


def read_findings(files: Mapping[str, Path]) -> Findings:
    """Read the files of `published_labels`, by their names; some may be missing.

    Raises:
        UserError: A file cannot be read.
    """
    return Findings(
        has_twin=_read(files.get(DUPLICATES), _twins),
        is_rejected=_read(files.get(VERDICTS), _rejected),
        people=_read(files.get(PEOPLE), _people),
    )


def honest_scores(probabilities: Probabilities, labels: NDArray[np.int64], findings: Findings) -> list[HonestScore]:
    """Return the accuracy as published, and without some of the images; and that of the images left out."""
    correct = probabilities.argmax(axis=1) == labels
    everything = np.ones(len(labels), bool)
    parts = [("as published", everything)]
    twins, rejected = findings.has_twin, findings.is_rejected
    if twins is not None:
        parts.append(("without images that have a near-duplicate in training", ~twins))
    if rejected is not None:
        parts.append(("without labels that people reject", ~rejected))
    if twins is not None and rejected is not None:
        parts.append(("without both", ~(twins | rejected)))
    scores = [_score(name, correct[part]) for name, part in parts]
    left_out = (("near-duplicates of training images alone", twins), ("rejected labels alone", rejected))
    return scores + [_score(name, correct[part], True) for name, part in left_out if part is not None]


def people_score(
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    people: NDArray[np.float64],
    temperature: float | None = None,
) -> PeopleScore:
    """Return how far the network agrees with people.

    Args:
        probabilities: Columns in the order of `class_names`.
        labels: (N,).
        class_names: The ten classes of CIFAR-10, in any order and known spelling.
        people: See `Findings`.
        temperature: To scale by, as `calibration.fit_temperature` returns it.
    """
    known = ClassFolders(CLASS_NAMES)
    columns = [known.find(name) for name in class_names]
    assert None not in columns, class_names
    fractions, rows = people[:, np.array(columns, np.int64)], np.arange(len(people))
    agreement = fractions[rows, probabilities.argmax(axis=1)]
    own = np.where(fractions > 0, fractions * np.log(fractions.clip(_LEAST)), 0)
    mean = float(agreement.mean())
    return PeopleScore(
        accuracy=mean,
        interval=mean_interval(mean, float(agreement.std(ddof=1)), len(agreement)),
        cross_entropy=_cross_entropy(fractions, probabilities),
        scaled_cross_entropy=temperature and _cross_entropy(fractions, with_temperature(probabilities, temperature)),
        entropy=float(-own.sum(axis=1).mean()),
        agreement=float((fractions**2).sum(axis=1).mean()),
        label_accuracy=float(fractions[rows, labels].mean()),
    )


def _cross_entropy(fractions: NDArray[np.float64], probabilities: Probabilities) -> float:
    logarithms = np.log(probabilities.astype(np.float64).clip(_LEAST))
    return float(-(fractions * logarithms).sum(axis=1).mean())


def _score(name: str, correct: NDArray[np.bool_], is_remainder: bool = False) -> HonestScore:
    hits, number = int(correct.sum()), len(correct)
    return HonestScore(name, number, hits / number, wilson(hits, number), is_remainder)


def _read(file: Path | None, read: Callable[[Path], Array]) -> Array | None:
    if file is None:
        return None
    try:
        return read(file)
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}; delete it to have it fetched again") from None


def _twins(file: Path) -> NDArray[np.bool_]:
    with file.open(encoding="utf-8", newline="") as lines:
        return _marked(int(row["TestID"]) for row in csv.DictReader(lines))


def _rejected(file: Path) -> NDArray[np.bool_]:
    entries = json.loads(file.read_text(encoding="utf-8"))
    return _marked(int(entry["id"]) for entry in entries if int(entry["mturk"]["given"]) < _MAJORITY)


def _people(file: Path) -> NDArray[np.float64]:
    fractions: NDArray[np.float64] = np.load(file, allow_pickle=False).astype(np.float64)
    if fractions.shape != (_NUM_IMAGES, len(CLASS_NAMES)) or not np.allclose(fractions.sum(axis=1), 1):
        raise ValueError(f"an array of shape {fractions.shape} is not what people answered")
    return fractions


def _marked(indices: Iterable[int]) -> NDArray[np.bool_]:
    marked = np.zeros(_NUM_IMAGES, bool)
    marked[list(indices)] = True
    return marked
