"""When a network begins to learn its training images by heart, and how far it gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cifar10.types import Metrics

_WINDOW = 5  # epochs that are averaged, since those of a few hundred images are noisy
_RISE = 0.02  # of the loss, from which on it is more than noise


@dataclass(frozen=True)
class Overfitting:
    """What the learning curves of a run show. Gaps are of training less validation, in accuracy, and in loss."""

    begins: int | None
    """Epoch, from 1, after which the validation loss rises; None: it does not rise before the end."""
    lowest_loss: float
    """Validation loss there, or at its lowest."""
    gap_there: float
    """Of accuracy, where the validation loss is lowest."""
    gap_at_end: float
    """Of accuracy, in the last epochs."""
    loss_gap_at_end: float
    """Validation loss less training loss, in the last epochs."""


def measure_overfitting(history: Sequence[Metrics]) -> Overfitting:
    """Return what the learning curves show, as means over five epochs.

    Args:
        history: One entry per epoch with loss and accuracy of training and validation; at least one.
    """
    curves = {
        name: _smooth(np.array([epoch[name] for epoch in history]))
        for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
    }
    lowest = int(curves["val/loss"].argmin())
    rises = bool(curves["val/loss"][-1] - curves["val/loss"][lowest] > _RISE)
    gaps = curves["train/accuracy"] - curves["val/accuracy"]
    return Overfitting(
        begins=lowest + 1 if rises else None,
        lowest_loss=float(curves["val/loss"][lowest]),
        gap_there=float(gaps[lowest]),
        gap_at_end=float(gaps[-1]),
        loss_gap_at_end=float(curves["val/loss"][-1] - curves["train/loss"][-1]),
    )


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a window around each value, which is cut off at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - _WINDOW // 2, 0)
    end = np.minimum(places + _WINDOW // 2 + 1, len(values))
    smoothed: NDArray[np.float64] = (sums[end] - sums[first]) / (end - first)
    return smoothed
