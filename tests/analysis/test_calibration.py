"""Calibration error and temperature, against torchmetrics and SciPy, and where the truth is known."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torchmetrics.classification import MulticlassCalibrationError

from cifar10.analysis.calibration import (
    calibration_error,
    cross_fitted,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    with_temperature,
)


def drawn(number: int = 4000, classes: int = 7, temperature: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Return probabilities, and labels that are drawn from those at `temperature`."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((number, classes))
    truth = softmax(logits / temperature)
    labels = (random.random((number, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return softmax(logits).astype(np.float32), labels.astype(np.int64)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_torchmetrics(num_bins: int) -> None:
    probabilities, labels = drawn(temperature=2.0)
    metric = MulticlassCalibrationError(7, n_bins=num_bins)
    expected = float(metric(torch.from_numpy(probabilities), torch.from_numpy(labels)))  # it adds in float32
    assert calibration_error(reliability(probabilities, labels, num_bins)) == pytest.approx(expected, abs=1e-5)


def test_every_image_is_in_one_bin() -> None:
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.6, 0.4]])
    bins = reliability(probabilities, np.array([0, 1, 1]), num_bins=2)
    assert [each.number for each in bins] == [1, 2]  # a confidence at an edge belongs to the lower bin
    assert bins[0].accuracy == 0 and bins[1].accuracy == 0.5 and bins[1].confidence == pytest.approx(0.8)
    assert reliability(probabilities, np.array([0, 1, 1]), num_bins=9)[0].accuracy is None


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_the_one_that_labels_were_drawn_at(temperature: float) -> None:
    probabilities, labels = drawn(20000, temperature=temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_a_smaller_cross_entropy() -> None:
    probabilities, labels = drawn(500, temperature=1.7, seed=3)
    found = minimize_scalar(
        lambda value: negative_log_likelihood(with_temperature(probabilities, value), labels),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(probabilities, labels) == pytest.approx(found.x, abs=1e-5)


@pytest.mark.parametrize("hits", [0, 3])
def test_answers_that_are_all_right_or_all_wrong_have_a_temperature_at_its_limit(hits: int) -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.zeros(3, np.int64) if hits else np.ones(3, np.int64)
    assert fit_temperature(probabilities, labels) == pytest.approx(0.05 if hits else 20.0, rel=1e-3)


def test_scaling_changes_no_answer_and_temperature_one_nothing() -> None:
    probabilities, _ = drawn(300)
    np.testing.assert_allclose(with_temperature(probabilities, 1.0), probabilities, atol=1e-6)
    for temperature in (0.3, 4.0):
        scaled = with_temperature(probabilities, temperature)
        np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
        np.testing.assert_allclose(scaled.sum(axis=1), 1)


def test_a_probability_of_zero_has_a_finite_loss_and_temperature() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4]])
    labels = np.array([1, 1, 0])
    assert np.isfinite(negative_log_likelihood(probabilities, labels))
    assert np.isfinite(fit_temperature(probabilities, labels))
    assert np.isfinite(with_temperature(probabilities, 0.05)).all()


def test_in_halves_no_image_is_scaled_by_a_temperature_that_its_own_label_has_changed() -> None:
    probabilities, labels = drawn(60, temperature=2.0)
    scaled, temperatures = cross_fitted(probabilities, labels)
    others = labels.copy()
    others[7] = (labels[7] + 1) % 7
    again, _ = cross_fitted(probabilities, others)
    np.testing.assert_array_equal(again[7], scaled[7])
    assert (again != scaled).any()
    assert len(set(temperatures)) == 2
