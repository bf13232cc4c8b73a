"""Calibration: whether of the answers given with a confidence of 80 % about 80 % are correct.

Confidence is the largest probability of an image. The expected calibration error (ECE) is the distance of confidence
and accuracy, averaged over bins of equal width, weighted by their images (Guo et al. 2017, arXiv:1706.04599).

Temperature scaling divides logits by one number, which is fitted by cross-entropy; no answer changes. Probabilities are
enough for that, since they are the softmax of their own logarithms.

Shapes: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]
"""(N, K), rows sum to 1."""

NUM_BINS = 15  # as in the paper, and in torchmetrics by default
_LEAST = 1e-30  # of a probability, so that its logarithm stays finite
_MOST_STEPS = 100
_LIMITS = (0.05, 20.0)
"""Of a temperature: if every answer is correct, the best one is 0."""


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low` and at most `high`."""

    low: float
    high: float
    number: int
    confidence: float | None
    """Mean of the images; None if there are none."""
    accuracy: float | None


def reliability(probabilities: Probabilities, labels: NDArray[np.int64], num_bins: int = NUM_BINS) -> list[Bin]:
    """Return the bins of equal width of (0, 1].

    Args:
        probabilities: See `Probabilities`.
        labels: (N,).
        num_bins: At least 1.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    positions = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(positions, minlength=num_bins).tolist()
    sums = np.bincount(positions, weights=confidences, minlength=num_bins).tolist()
    hits = np.bincount(positions, weights=correct, minlength=num_bins).tolist()
    return [
        Bin(float(edges[at]), float(edges[at + 1]), n, sums[at] / n if n else None, hits[at] / n if n else None)
        for at, n in enumerate(counts)
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error, between 0 and 1. There is at least one image."""
    total = sum(each.number for each in bins)
    gaps = ((each.number, each.confidence, each.accuracy) for each in bins)
    return sum(n / total * abs(confidence - accuracy) for n, confidence, accuracy in gaps if n)  # type: ignore[operator]


def negative_log_likelihood(probabilities: Probabilities, labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of labels, (N,), in nats."""
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(right.clip(_LEAST)).mean())


def fit_temperature(probabilities: Probabilities, labels: NDArray[np.int64]) -> float:
    """Return the number to divide logits by for the smallest mean cross-entropy, between 0.05 and 20.

    The cross-entropy is convex in the inverse of the temperature; Newton's method with bisection finds its minimum.

    Args:
        probabilities: Of images that the network was not trained on; on those of its training it is too sure of itself.
        labels: (N,), N at least 1.
    """
    logits = np.log(probabilities.astype(np.float64).clip(_LEAST))
    logits -= logits.max(axis=1, keepdims=True)
    target = float(logits[np.arange(len(labels)), labels].mean())
    low, high = 1 / _LIMITS[1], 1 / _LIMITS[0]
    inverse = 1.0
    for _ in range(_MOST_STEPS):
        weights = np.exp(inverse * logits)
        weights /= weights.sum(axis=1, keepdims=True)
        means = (weights * logits).sum(axis=1)
        slope = float(means.mean()) - target
        curvature = float(((weights * logits**2).sum(axis=1) - means**2).mean())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else (low + high) / 2
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) < 1e-9 * inverse:
            break
        inverse = following
    return float(1 / following)


def is_at_limit(temperature: float) -> bool:
    """Return whether a fitted temperature is the least or the largest that `fit_temperature` returns: no optimum."""
    return not _LIMITS[0] * 1.001 < temperature < _LIMITS[1] / 1.001


def with_temperature(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Return the probabilities, (N, K), of the same logits divided by `temperature`."""
    logits = np.log(probabilities.astype(np.float64).clip(_LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def cross_fitted(
    probabilities: Probabilities, labels: NDArray[np.int64], seed: int = 0
) -> tuple[NDArray[np.float64], list[float]]:
    """Scale each half of the images by the temperature that is fitted on the other half.

    So the scaled probabilities can be measured with the same images, although no others are at hand.

    Args:
        probabilities: See `Probabilities`; N at least 2.
        labels: (N,).
        seed: Of the halves.

    Returns:
        Probabilities, (N, K), and the two temperatures.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    scaled, temperatures = np.empty(probabilities.shape, np.float64), []
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        temperatures.append(fit_temperature(probabilities[other], labels[other]))
        scaled[half] = with_temperature(probabilities[half], temperatures[-1])
    return scaled, temperatures
