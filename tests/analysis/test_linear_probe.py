"""A linear probe separates what is linearly separable, and regularises where that helps."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from cifar10.analysis.linear_probe import fit_linear_head

STRENGTHS = [1e-4, 1e-2, 1.0, 100.0]


def clusters(
    per_class: int, num_classes: int, noise: float, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return points around one centre for each class, on scales that differ by features."""
    centres = np.random.default_rng(7).normal(size=(num_classes, 30))
    labels = np.arange(per_class * num_classes) % num_classes
    points = centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), 30))
    return (points * np.logspace(-2, 3, 30) + 5).astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_it_learns_classes_on_features_of_any_scale(num_classes: int) -> None:
    head = fit_linear_head(*clusters(20, num_classes, 0.5), STRENGTHS, folds=5, seed=0)
    points, labels = clusters(50, num_classes, 0.5, seed=1)
    assert head.weight.shape == (num_classes, 30) and head.weight.dtype == np.float32
    assert (head.logits(points).argmax(axis=1) == labels).mean() > 0.95


def test_the_chosen_strength_is_nearly_the_best_on_other_images() -> None:
    points, labels = clusters(20, 5, noise=3.0)
    others, truth = clusters(400, 5, noise=3.0, seed=1)

    def loss(strengths: list[float]) -> float:
        head = fit_linear_head(points, labels, strengths, folds=5, seed=0)
        return cross_entropy(torch.from_numpy(head.logits(others)), torch.from_numpy(truth)).item()

    each = [loss([strength]) for strength in STRENGTHS]
    assert loss(STRENGTHS) < min(each) + 0.05 < max(each) - 0.5


def test_classes_of_one_image_and_constant_features_are_no_obstacle() -> None:
    points, labels = clusters(5, 4, 0.1)
    points[:, 3] = 1.0
    kept = np.flatnonzero((labels != 2) | (np.arange(len(labels)) == 2))
    head = fit_linear_head(points[kept], labels[kept], STRENGTHS, folds=5, seed=0)
    assert np.isfinite(head.weight).all() and (head.weight[:, 3] == 0).all()
    assert (head.logits(points).argmax(axis=1) == labels).mean() > 0.9


def test_a_head_without_a_bias_is_fitted_without_one() -> None:
    points, labels = clusters(30, 4, 0.5)
    head = fit_linear_head(points, labels, STRENGTHS, folds=5, seed=0, with_bias=False)
    assert (head.bias == 0).all()
    others, truth = clusters(50, 4, 0.5, seed=1)
    assert (head.logits(others).argmax(axis=1) == truth).mean() > 0.9


@pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (20, 1), (2, 1), (2, 2), (1, 20, 1)])
def test_too_few_images_for_cross_validation_are_no_obstacle(sizes: tuple[int, ...]) -> None:
    points, labels = clusters(20, len(sizes), 0.1)
    kept = np.concatenate([np.flatnonzero(labels == number)[:size] for number, size in enumerate(sizes)])
    head = fit_linear_head(points[kept], labels[kept], STRENGTHS, folds=5, seed=0)
    assert head.strength in STRENGTHS
    assert (head.logits(points[kept]).argmax(axis=1) == labels[kept]).all()


def test_the_seed_decides_the_folds_and_nothing_else() -> None:
    points, labels = clusters(10, 3, 1.0)
    first, again = (fit_linear_head(points, labels, STRENGTHS, folds=3, seed=4) for _ in range(2))
    assert np.array_equal(first.weight, again.weight) and first.losses == again.losses
    assert fit_linear_head(points, labels, STRENGTHS, folds=3, seed=5).losses != first.losses
