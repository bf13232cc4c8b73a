"""Overfitting begins where the validation loss is lowest, if it rises afterwards."""

import numpy as np
import pytest

from cifar10.analysis.overfitting import measure_overfitting
from cifar10.types import Metrics


def history(losses: list[float], train_losses: list[float] | None = None) -> list[Metrics]:
    trained = train_losses or list(np.linspace(1.5, 0.1, len(losses)))
    return [
        {"train/loss": low, "val/loss": loss, "train/accuracy": 1 - low / 2, "val/accuracy": 1 - loss / 2}
        for low, loss in zip(trained, losses, strict=True)
    ]


def test_it_begins_at_the_lowest_loss_of_a_curve_that_turns() -> None:
    found = measure_overfitting(history([abs(epoch - 30) / 20 + 0.5 for epoch in range(100)]))
    assert found.begins == 31
    assert found.gap_at_end > found.gap_there
    assert found.loss_gap_at_end == pytest.approx(0.5 + 67 / 20 - 0.1, abs=0.1)


def test_a_noisy_epoch_does_not_decide() -> None:
    losses = [abs(epoch - 30) / 20 + 0.5 for epoch in range(100)]
    losses[70] = 0.4
    begins = measure_overfitting(history(losses)).begins
    assert begins is not None and abs(begins - 31) <= 3


@pytest.mark.parametrize("losses", [list(np.linspace(2, 1, 50)), [1.0] * 50, [1.0], [2.0, 1.0, 1.01]])
def test_a_loss_that_does_not_rise_is_no_overfitting(losses: list[float]) -> None:
    assert measure_overfitting(history(losses)).begins is None


def test_gaps_are_training_less_validation() -> None:
    found = measure_overfitting(history([1.0] * 20, [0.5] * 20))
    assert found.gap_at_end == pytest.approx(0.25) and found.loss_gap_at_end == pytest.approx(0.5)
