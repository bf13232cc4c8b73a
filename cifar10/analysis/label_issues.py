"""Suspected wrong labels: images whose label a classifier that has not seen them finds improbable.

The ranking is that of confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068), as the
package cleanlab has it.

Shapes: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """What a classifier says to the labels, by image."""

    suspicion: NDArray[np.float32]
    """(N,): how much more probable the best other class is than the label, between -1 and 1."""
    suggested: NDArray[np.int64]
    """(N,): the most probable class."""
    own_probability: NDArray[np.float32]
    """(N,): probability of the label."""
    suggested_probability: NDArray[np.float32]
    """(N,)."""
    is_suspected: NDArray[np.bool_]
    """(N,): cleanlab counts the label among the wrong ones."""

    def ranking(self) -> NDArray[np.int64]:
        """Return the images, the most suspect first."""
        return np.argsort(-self.suspicion, kind="stable")


def find_label_issues(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> LabelIssues:
    """Judge labels by out-of-fold probabilities.

    Args:
        labels: (N,).
        probabilities: (N, K), each row computed by a classifier that was not trained on that image.
    """
    from cleanlab.filter import find_label_issues as find
    from cleanlab.rank import get_label_quality_scores

    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    rows = np.arange(len(labels))
    suggested = probabilities.argmax(axis=1)
    return LabelIssues(
        suspicion=(1 - 2 * quality).astype(np.float32),
        suggested=suggested,
        own_probability=probabilities[rows, labels].astype(np.float32),
        suggested_probability=probabilities[rows, suggested].astype(np.float32),
        is_suspected=np.asarray(find(labels, probabilities, n_jobs=1)),
    )
