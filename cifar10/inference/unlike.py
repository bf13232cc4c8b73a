"""When is an image unlike the training data of a network?

Two scores, each in units of what is rare among images like the training data:

- the energy of the logits, -log(sum(exp(logits))) (Liu et al. 2020, https://arxiv.org/abs/2010.03759), which is high if
  the network finds no class in the image;
- if it is larger, and larger than for 99.9 % of the training images, the Mahalanobis distance of brightness, contrast
  and detail from theirs: for images that are no pictures, such as noise or a single colour, of which networks may be
  certain.

Chosen by measurement: benchmarks/results/unlike_*.md. Importing this imports no torch.

Shapes: B images of S x S pixels, K classes.
"""

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FEWEST: Final = 100
"""Images to calibrate with, below which there is no rule: one of a hundred is the first that may be called unlike."""
RATE: Final = 0.01
"""Part of the images like the training data that is called unlike."""
_RARE_PIXELS = 0.999  # quantile of the distance of training images
_NUM_FEATURES = 3
_LEAST_VARIANCE = 1e-6  # of a feature, relative to the mean of their variances

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Row = Annotated[list[Number], Field(min_length=_NUM_FEATURES, max_length=_NUM_FEATURES)]


class UnlikeRule(BaseModel):
    """A score of images, and the score above which an image is unlike the training data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    energy_median: Number
    """Of the images of the calibration."""
    energy_scale: Positive
    """Distance of their 99 % quantile from the median."""
    features: Row
    """Means of `picture_features` over training images."""
    precision: Annotated[list[Row], Field(min_length=_NUM_FEATURES, max_length=_NUM_FEATURES)]
    """Inverse of their covariance."""
    distance_scale: Positive
    """99.9 % quantile of their squared Mahalanobis distances."""
    threshold: Number

    def is_unlike(self, logits: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which images are unlike the training data, (B,); arguments as of `scores`."""
        return ~(self.scores(logits, pixels) <= self.threshold)

    def scores(self, logits: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return how unlike the training data images are, (B,).

        Args:
            logits: Of the images without test-time augmentation, (B, K).
            pixels: uint8 (B, S, S, 3), RGB.
        """
        by_logits = (_energy(logits) - self.energy_median) / self.energy_scale
        distances = _squared_distances(pixels, np.asarray(self.features), np.asarray(self.precision))
        by_picture = distances / self.distance_scale
        return np.where(by_picture > 1, np.maximum(by_logits, by_picture), by_logits)


def calibrate(
    training: NDArray[np.uint8], held_out: NDArray[np.uint8], logits: NDArray[np.float32]
) -> UnlikeRule | None:
    """Return the rule that calls 1 % of images like `held_out` unlike; None if these are fewer than `FEWEST`.

    Args:
        training: Training images, uint8 (N, S, S, 3).
        held_out: Images to calibrate with, uint8 (M, S, S, 3): those of the network's held-out split.
        logits: What the network computes for `held_out`, (M, K).
    """
    if len(held_out) < FEWEST or not np.isfinite(logits).all():
        return None
    energy = _energy(logits)
    median, rare = np.quantile(energy, [0.5, 1 - RATE])
    features = picture_features(training)
    covariance = np.cov(features.T)
    covariance += max(_LEAST_VARIANCE * float(np.trace(covariance)), 1e-9) * np.eye(_NUM_FEATURES)
    mean, precision = features.mean(axis=0), np.linalg.inv(covariance).astype(np.float64)
    rule = UnlikeRule(
        energy_median=float(median),
        energy_scale=max(float(rare - median), 1e-6),
        features=mean.tolist(),
        precision=precision.tolist(),
        distance_scale=float(np.quantile(_squared_distances(training, mean, precision), _RARE_PIXELS)) or 1.0,
        threshold=0.0,
    )
    scores = np.sort(rule.scores(logits, held_out))
    rank = int(np.ceil((len(scores) + 1) * (1 - RATE)))  # so that a further such image exceeds it with a chance of 1 %
    return rule.model_copy(update={"threshold": float(scores[min(rank, len(scores)) - 1])})


def picture_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return brightness, contrast and detail of images, uint8 (B, S, S, 3): (B, 3).

    Detail is the logarithm of the mean difference between neighbouring pixels.
    """
    levels = pixels.astype(np.float32)
    axes = (1, 2, 3)
    down = np.abs(np.diff(levels, axis=1)).sum(axis=axes) / max(levels[0, 1:].size, 1) if len(levels) else levels[:0]
    across = np.abs(np.diff(levels, axis=2)).sum(axis=axes) / max(levels[0, :, 1:].size, 1) if len(levels) else down
    detail = np.log1p(down + across)
    return np.stack([levels.mean(axis=axes), levels.std(axis=axes), detail], axis=1).astype(np.float64)


def _energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:  # (B, K) -> (B,)
    largest = logits.max(axis=1)
    sums = np.exp(logits - largest[:, None]).sum(axis=1)
    energy: NDArray[np.float64] = -(largest + np.log(sums)).astype(np.float64)
    return energy


def _squared_distances(
    pixels: NDArray[np.uint8], mean: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    apart = picture_features(pixels) - mean
    distances: NDArray[np.float64] = np.einsum("bi,ij,bj->b", apart, precision, apart)
    return distances
