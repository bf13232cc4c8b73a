"""How long a run takes is told so that a person understands it, and before it has taken long."""

from types import SimpleNamespace
from typing import Any

import pytest

from cifar10.training.progress import TrainingProgress, _clock, _in_words


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (545.9, "9:05"), (3599, "59:59"), (3600, "1:00:00"), (36_054, "10:00:54")]
)
def test_hours_are_shown_as_hours(seconds: float, shown: str) -> None:
    assert _clock(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1800, "30 min"), (5400, "1.5 h"), (36_054, "10 h"), (100_000, "28 h"), (259_200, "3.0 days"), (2e6, "23 days")],
)
def test_a_forecast_has_two_digits(seconds: float, shown: str) -> None:
    assert _in_words(seconds) == shown


def progress_after(seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> TrainingProgress:
    """Return the progress of a run of 1,000 steps that has made `steps` of them in `seconds`."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("cifar10.training.progress.time.monotonic", lambda: clock.now)
    progress = TrainingProgress(images_per_step=10, steps_per_epoch=100, num_epochs=10, **options)
    progress.on_train_start(trainer(0), None)  # type: ignore[arg-type]
    clock.now = seconds
    progress._forecast(trainer(steps))
    progress._forecast(trainer(steps))
    return progress


def trainer(step: int) -> Any:
    return SimpleNamespace(global_step=step)


def test_a_long_run_is_announced_once_as_soon_as_some_steps_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress_after(36, 1, monkeypatch)
    line = "this will take about 10.0 h on this machine; Ctrl-C saves, and train --resume continues\n"
    assert capsys.readouterr().err == line.replace("10.0 h", "10 h")


@pytest.mark.parametrize(("seconds", "steps"), [(10, 1), (25, 100), (25, 0)])
def test_a_short_run_is_not_announced(
    seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress_after(seconds, steps, monkeypatch)
    assert capsys.readouterr().err == ""


def test_smaller_images_count_by_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    half = [SimpleNamespace(until=0.5, scale=0.5)]
    progress = progress_after(10, 500, monkeypatch, resizing=half)  # half of the steps, a fifth of the work
    assert progress._seconds_left(trainer(500)) == pytest.approx(40)
    assert progress._pace(trainer(500)) == "500 images/s, 0:40 left"
