"""A linear classifier on embeddings: multinomial logistic regression, its regularisation chosen by cross-validation.

"Linear probe": Alain and Bengio, "Understanding intermediate layers using linear classifier probes", arXiv:1610.01644.

Shapes: N images, E numbers in an embedding, K classes.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_ITERATIONS = 1000
_LEAST = 1e-6  # probability of a class that a fold has no image of


class LinearHead(NamedTuple):
    """The weights of a linear layer, and how they were chosen."""

    weight: NDArray[np.float32]
    """(K, E)."""
    bias: NDArray[np.float32]
    """(K,)."""
    strength: float
    """The chosen one."""
    losses: dict[float, float]
    """Strength -> mean cross-entropy on images that were left out; empty if there was nothing to choose."""

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:  # (N, E) -> (N, K)
        return embeddings @ self.weight.T + self.bias


def fit_linear_head(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    strengths: Sequence[float],
    folds: int,
    seed: int,
    with_bias: bool = True,
) -> LinearHead:
    """Fit a linear head to standardised embeddings; without a bias, they are only scaled.

    Args:
        embeddings: (N, E).
        labels: (N,), with each class in [0, K).
        strengths: Values of C to choose from: the weight of the sum of the losses against the squared norm of the
            weights. The one with the smallest loss in cross-validation is taken; the middle one, if there are too few
            images for it.
        folds: Of the cross-validation; fewer if a class has fewer images.
        seed: Determines the folds.
        with_bias: Whether the head has a bias.
    """
    mean, deviation = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64)
    if not with_bias:
        deviation, mean = np.sqrt(np.square(mean) + np.square(deviation)), np.zeros_like(mean)
    deviation[deviation < 1e-6 * (1 + np.abs(mean))] = np.inf  # a constant feature is not used
    features = (embeddings - mean) / deviation
    ordered = sorted(strengths)
    losses = _cross_validated(features, labels, ordered, folds, seed, with_bias) if len(ordered) > 1 else {}
    strength = min(ordered, key=lambda each: (losses[each], each)) if losses else ordered[len(ordered) // 2]
    model = _fit(features, labels, strength, with_bias)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn has the logit of the second against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / deviation
    return LinearHead(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32), strength, losses)


def _cross_validated(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    strengths: Sequence[float],
    folds: int,
    seed: int,
    with_bias: bool,
) -> dict[float, float]:
    """Return the mean cross-entropy on left-out images for each of `strengths`; nothing if there are too few images."""
    from sklearn.model_selection import StratifiedKFold

    class_sizes = np.bincount(labels)
    if class_sizes.max() < 2:
        return {}
    smallest_class = int(class_sizes.min())
    splitter = StratifiedKFold(max(2, min(folds, smallest_class)), shuffle=True, random_state=seed)
    sums = dict.fromkeys(strengths, 0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(splitter.split(features, labels))
    parts = [(kept, left_out) for kept, left_out in parts if len(np.unique(labels[kept])) > 1]
    for kept, left_out in parts:
        for strength in strengths:
            model = _fit(features[kept], labels[kept], strength, with_bias)
            probabilities = np.full((len(left_out), int(labels.max()) + 1), _LEAST)
            probabilities[:, model.classes_] = model.predict_proba(features[left_out])
            right = probabilities[np.arange(len(left_out)), labels[left_out]]
            sums[strength] -= float(np.log(right.clip(_LEAST)).sum())
    num_left_out = sum(len(left_out) for _, left_out in parts)
    return {strength: total / num_left_out for strength, total in sums.items()} if parts else {}


def _fit(features: NDArray[np.float64], labels: NDArray[np.int64], strength: float, with_bias: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, tol=1e-3, fit_intercept=with_bias)
    return model.fit(features, labels)
