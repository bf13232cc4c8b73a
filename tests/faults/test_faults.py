"""The short form of the fault bench: every fault is survived, and every check can fail."""

import os
from pathlib import Path

import pytest

from tests.faults.bench import EXPERIMENTS
from tests.faults.experiment import Experiment

_CONTROLLED = [experiment for experiment in EXPERIMENTS if experiment.control is not None]
_CONTROL_TRIALS = 3


def _parameters(experiments: list[Experiment]) -> list[object]:
    slow = [pytest.mark.slow, pytest.mark.timeout(1200)]
    return [pytest.param(each, id=each.name, marks=[] if each.is_quick else slow) for each in experiments]


@pytest.fixture(autouse=True)
def _one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setitem(os.environ, name, "1")


@pytest.mark.parametrize("experiment", _parameters(EXPERIMENTS))
def test_every_fault_is_survived(experiment: Experiment, tmp_path: Path) -> None:
    if why := experiment.obstacle():
        pytest.skip(why)
    trials = list(experiment.run(experiment.short, tmp_path))
    assert [f"{trial.fault}: {trial.problem}" for trial in trials if trial.problem] == []
    assert len(trials) == experiment.short
    assert any(not trial.obstacle for trial in trials)


@pytest.mark.parametrize("experiment", _parameters(_CONTROLLED))
def test_without_the_protection_the_check_fails(experiment: Experiment, tmp_path: Path) -> None:
    if why := experiment.obstacle():
        pytest.skip(why)
    assert experiment.control is not None
    assert any(trial.problem for trial in experiment.control(_CONTROL_TRIALS, tmp_path))


def test_names_are_unique() -> None:
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
