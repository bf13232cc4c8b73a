"""Compare counts of incoming images with the reference of a network.

Each measure is compared by its population stability index (PSI) and by a chi-square test. The index says how large a
difference is, the test whether it may be chance. Only both together are called drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cifar10.inference.reference import EDGES, MEASURES, Reference
from cifar10.inference.unlike import RATE
from cifar10.serving.database import DatabaseError, reading
from cifar10.serving.drift import LAYOUT, UNLIKE
from cifar10.serving.histogram_difference import Difference, difference
from cifar10.wording import counted

FEWEST: Final = 200
"""Incoming images below which nothing is said about drift."""
LARGE_INDEX: Final = 0.2
"""PSI from which a difference matters: the usual bound of credit scoring, where the index comes from."""
_CHANCE = 0.001  # over all measures together
_NUM_MEASURES = len(MEASURES) + 1


@dataclass(frozen=True, eq=False)
class Comparison:
    """A measure of incoming images beside that of the reference."""

    measure: str
    """brightness, contrast, confidence, classes or unlike."""
    labels: tuple[str, ...]
    """Of the bins: the lower limit of a histogram's, or the name of a class."""
    edges: NDArray[np.float32] | None
    """Limits of the bins of a histogram, one more than bins; None for classes."""
    expected: NDArray[np.float64]
    """Shares of the reference, (bins,); they sum to 1."""
    incoming: NDArray[np.int64]
    """Images in each bin, (bins,)."""
    index: float
    """Population stability index, less what chance adds to it on average; at least 0."""
    p_value: float
    """Of the chi-square test: how often chance alone makes a difference of this size."""
    has_drifted: bool


@dataclass(frozen=True, eq=False)
class Drift:
    """What has come in since a time, beside what the network was trained on."""

    num_images: int
    comparisons: tuple[Comparison, ...]
    """One for each measure; empty if there is no image."""
    hours: NDArray[np.int64]
    """Hours since 1970, UTC, in which images have come in, ascending, (H,)."""
    images_by_hour: NDArray[np.int64]
    """(H,)."""
    verdict: str
    """One line."""

    @property
    def drifted(self) -> tuple[str, ...]:
        """The measures that have drifted."""
        return tuple(each.measure for each in self.comparisons if each.has_drifted)


def read_drift(
    path: Path, reference: Reference, weights_digest: str, class_names: Sequence[str], since: float = 0.0
) -> Drift:
    """Compare the counts of a file with a reference.

    Args:
        path: Of a `DriftLog`.
        reference: Of the network.
        weights_digest: Of the network; counts of others are left out.
        class_names: In the order of their ids.
        since: Seconds since 1970; earlier hours are left out.

    Raises:
        DatabaseError: The file does not exist, is damaged or cannot be read.
    """
    with reading(path, LAYOUT) as connection:
        rows = connection.execute(
            "SELECT hour, measure, bin, images FROM counts WHERE model = ? AND hour >= ?",
            (weights_digest, int(since // 3600)),
        ).fetchall()
    if not all(_is_count(hour, position, images) for hour, _, position, images in rows):
        raise DatabaseError(f"{path} is damaged: a count is no number; move it away, and a new file is begun")
    by_hour: dict[int, int] = {}
    expected = _expected(reference)
    incoming = {measure: np.zeros(len(counts), np.int64) for measure, counts in expected.items()}
    for hour, measure, position, images in rows:
        if measure in incoming and 0 <= position < len(incoming[measure]):
            incoming[measure][position] += images
        if measure == "brightness":
            by_hour[hour] = by_hour.get(hour, 0) + images
    comparisons = tuple(
        _compare(measure, expected[measure], counts, class_names)
        for measure, counts in incoming.items()
        if counts.any()
    )
    hours = np.array(sorted(by_hour), np.int64)
    num_images = sum(by_hour.values())
    images_by_hour = np.array([by_hour[hour] for hour in hours.tolist()], np.int64)
    return Drift(num_images, comparisons, hours, images_by_hour, _verdict(num_images, comparisons))


def _is_count(*numbers: object) -> bool:
    """Whether the numbers of a row are whole and not negative, and small enough to be added up."""
    return all(isinstance(number, int) and 0 <= number < 2**40 for number in numbers)


def _expected(reference: Reference) -> dict[str, NDArray[np.float64]]:
    """Return the images of the reference in each bin, by measure."""
    expected: dict[str, NDArray[np.float64]] = {
        measure: np.array(reference.counts[measure], np.float64) for measure in MEASURES
    }
    num_images = expected["confidence"].sum()
    return expected | {UNLIKE: np.array([(1 - RATE) * num_images, RATE * num_images])}


def _compare(
    measure: str, expected: NDArray[np.float64], incoming: NDArray[np.int64], class_names: Sequence[str]
) -> Comparison:
    edges = next((limits for name, limits in EDGES.items() if name == measure), None)
    found = Difference(0.0, 1.0)
    if incoming.sum() >= FEWEST:
        found = difference(expected, incoming.astype(np.float64), is_ordered=edges is not None)
    names = {"classes": tuple(class_names), UNLIKE: ("like", "unlike")}
    labels = names[measure] if edges is None else tuple(f"{limit:g}" for limit in edges[:-1])
    has_drifted = found.index >= LARGE_INDEX and found.p_value < _CHANCE / _NUM_MEASURES
    shares = expected / expected.sum()
    return Comparison(measure, labels, edges, shares, incoming, found.index, found.p_value, has_drifted)


def _verdict(num_images: int, comparisons: Sequence[Comparison]) -> str:
    if num_images < FEWEST:
        return f"too few images to tell: {num_images:,}, at least {FEWEST:,} are needed"
    drifted = [each.measure for each in comparisons if each.has_drifted]
    if not drifted:
        return f"no drift in {counted(num_images, 'image')}"
    return f"drift in {', '.join(drifted)} of {counted(num_images, 'image')}"
