"""What a training does becomes the result of its trial: a score, an early end, a reason, or another attempt."""

import csv
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import Trial
from sqlalchemy.exc import OperationalError

from cifar10.config.sweep_plan import SweepPlan, plan_sweep
from cifar10.errors import UserError
from cifar10.model import Classifier
from cifar10.studies.opening import open_storage
from cifar10.studies.outlook import same_reason
from cifar10.studies.pruning import ReportEpochs
from cifar10.studies.results import read_results
from cifar10.studies.running import Runner
from cifar10.studies.study import PRUNED, REASON, ROOT, Study, begin
from cifar10.studies.tracking import Parent
from cifar10.system.signals import Stopped
from tests.tiny_run import TINY

Train = Callable[..., Any]
DATA: Any = object()  # is handed on only


@functools.cache
def planned(*words: str) -> SweepPlan:
    return plan_sweep([*TINY, "seed=0,1,2,3", "training.monitor=null", *words])


def runner_of(folder: Path, plan: SweepPlan | None = None) -> Runner:
    plan = plan or planned()
    url = f"sqlite:///{folder / 'study.db'}"
    study = Study(open_storage("study", folder, url, False), url, "study", plan.space, 0, epochs=2)
    is_higher_better = plan.metric != "val/loss"
    begin(study, is_higher_better, {}, plan.space.trials)
    parent = Parent(None, folder, plan.config.tracking, "the line")
    return Runner(plan, study, folder, DATA, is_higher_better, parent, "the line")


def claimed(runner: Runner) -> tuple[Trial, Any]:
    trial = runner.study.claim()
    assert trial is not None
    return trial, runner.study.values_of(trial)


def training(scores: list[float], metric: str = "val/accuracy") -> Train:
    """Return what stands for `train`: it writes the history of epochs with these scores."""

    def train(config: Any, **_: Any) -> None:
        folder = Path(config.models_dir) / config.run_name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", metric])
            writer.writerows(enumerate(scores))

    return train


def failing(error: BaseException) -> Train:
    def train(*_: Any, **__: Any) -> None:
        raise error

    return train


def state_of(runner: Runner, number: int = 0) -> tuple[str, str]:
    trial = read_results(runner.study, runner.plan.metric, True).trials[number]
    return trial.state, trial.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("monitor", "metric", "scores", "value"),
    [
        ("null", "val/accuracy", [0.2, 0.9, 0.5], 0.5),
        ("val/accuracy", "val/accuracy", [0.2, 0.9, 0.5], 0.9),
        ("val/loss", "val/loss", [2.0, 1.0, 1.5], 1.0),
    ],
)
def test_the_score_is_that_of_the_weights_that_are_kept(
    monitor: str, metric: str, scores: list[float], value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(
        tmp_path, planned() if monitor == "null" else plan_sweep([*TINY, "seed=0,1", f"training.monitor={monitor}"])
    )
    monkeypatch.setattr("cifar10.studies.running.train", training(scores, metric))
    assert runner.run(*claimed(runner)).value == value


@pytest.mark.slow
def test_a_trial_is_an_untested_run_that_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def train(config: Any, **arguments: Any) -> None:
        given.append({"config": config, **arguments})
        training([0.5])(config)

    monkeypatch.setattr("cifar10.studies.running.train", train)
    runner = runner_of(tmp_path)
    trial, values = claimed(runner)
    runner.run(trial, {**values})
    assert given[0]["options"].is_tested is False and given[0]["resume"] == "auto"
    assert given[0]["config"].run_name == "trial-0000" and given[0]["config"].seed == values["seed"]
    assert given[0]["data"] is DATA
    assert given[0]["options"].tags == {"sweep.study": "study", "sweep.trial": "0"}


@pytest.mark.slow
def test_a_trial_that_changes_the_size_of_images_loads_them_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def train(config: Any, data: Any, **_: Any) -> None:
        given.append((config.data_loading.arguments["image_size"], data))
        training([0.5])(config)

    monkeypatch.setattr("cifar10.studies.running.train", train)
    words = [word for word in TINY if "image_size" not in word]
    plan = plan_sweep([*words, "data_loading.image_size=16,32", "training.monitor=null"])
    runner = runner_of(tmp_path, plan)
    for _ in range(2):
        runner.run(*claimed(runner))
    assert given == [(16, None), (32, DATA)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("the loss is not finite at step 3\nmore"), "the loss is not finite at step 3"),
        (MemoryError(), "memory ran out"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory ran out"),
        (ZeroDivisionError("division by zero"), "division by zero"),
    ],
)
def test_a_failure_is_noted_and_the_next_trial_follows(
    error: BaseException, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(tmp_path)
    monkeypatch.setattr("cifar10.studies.running.train", failing(error))
    assert runner.run(*claimed(runner)).state == "failed"
    state, noted = state_of(runner)
    assert state == "failed" and reason in noted
    following, _ = claimed(runner)
    assert following.user_attrs[ROOT] == 1


@pytest.mark.slow
def test_a_run_without_a_score_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(tmp_path)
    monkeypatch.setattr("cifar10.studies.running.train", training([float("nan")]))
    assert "was not a finite number" in runner.run(*claimed(runner)).reason


@pytest.mark.slow
def test_a_stopped_trial_waits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(tmp_path)
    monkeypatch.setattr("cifar10.studies.running.train", failing(Stopped(2)))
    with pytest.raises(Stopped):
        runner.run(*claimed(runner))
    assert state_of(runner)[0] == "waiting"


@pytest.mark.slow
def test_a_database_that_fails_in_training_is_no_fault_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(tmp_path)
    lost = OperationalError("SELECT 1", {}, Exception("disk I/O error"))
    monkeypatch.setattr("cifar10.studies.running.train", failing(lost))
    with pytest.raises(UserError, match=r"failed: disk I/O error; .*: the line"):
        runner.run(*claimed(runner))
    assert state_of(runner)[0] == "waiting"


# -- early ends ----------------------------------------------------------------------------------------------------


def epochs_of(trial: Trial, scores: list[float], before: list[float] | None = None) -> tuple[int, ReportEpochs]:
    """Return after how many epochs of these scores a training of ten ends, and the callback."""
    reporter = ReportEpochs(trial, "val/accuracy")
    history = [{"epoch": epoch, "val/accuracy": score} for epoch, score in enumerate(before or [])]
    module = Classifier.__new__(Classifier)
    object.__setattr__(module, "history", history)
    trainer: Any = SimpleNamespace(current_epoch=len(history), max_epochs=10, should_stop=False)
    reporter.on_train_start(trainer, module)
    for score in scores:
        object.__setattr__(module, "validation_scores", {"val/accuracy": score})
        reporter.on_validation_end(trainer, module)
        trainer.current_epoch += 1
        if trainer.should_stop:
            break
    return trainer.current_epoch, reporter


@pytest.fixture
def pruned_by_median(tmp_path: Path) -> Runner:
    plan = planned()
    space = plan.space.model_copy(update={"pruner": "median", "startup_trials": 1})
    runner = runner_of(tmp_path, SweepPlan(plan.study, plan.words, plan.config, space, plan.source))
    good, _ = claimed(runner)
    epochs_of(good, [0.5, 0.6, 0.7, 0.8])
    runner.study.complete(good, 0.8)
    return runner


def test_a_trial_below_the_others_ends_early_and_one_above_does_not(pruned_by_median: Runner) -> None:
    poor, _ = claimed(pruned_by_median)
    num_epochs, reporter = epochs_of(poor, [0.6, 0.5, 0.4])
    assert (num_epochs, reporter.is_pruned) == (3, True)
    better, _ = claimed(pruned_by_median)
    num_epochs, reporter = epochs_of(better, [0.6, 0.7, 0.8, 0.9])
    assert (num_epochs, reporter.is_pruned) == (4, False)


def test_a_decision_is_kept_if_the_process_is_killed_after_it(pruned_by_median: Runner) -> None:
    poor, _ = claimed(pruned_by_median)
    epochs_of(poor, [0.1])
    pruned_by_median.study.give_back(poor)
    again, _ = claimed(pruned_by_median)
    assert again.user_attrs[ROOT] == poor.user_attrs[ROOT] and again.user_attrs[PRUNED]
    assert epochs_of(again, [0.9, 0.9], before=[])[0] == 1


def test_epochs_before_a_resume_are_known(pruned_by_median: Runner) -> None:
    trial, _ = claimed(pruned_by_median)
    epochs_of(trial, [0.9], before=[0.7, 0.8])
    pruned_by_median.study.complete(trial, 0.9)
    assert read_results(pruned_by_median.study, "val/accuracy", True).trials[1].epochs == {1: 0.7, 2: 0.8, 3: 0.9}


def test_the_last_epoch_is_never_an_early_end(pruned_by_median: Runner) -> None:
    trial, _ = claimed(pruned_by_median)
    assert not epochs_of(trial, [0.1], before=[0.9] * 9)[1].is_pruned


# -- the same failure again and again ------------------------------------------------------------------------------


def fail_all(runner: Runner, *reasons: str) -> str | None:
    for reason in reasons:
        trial, _ = claimed(runner)
        runner.study.fail(trial, reason)
    return same_reason(runner.study.trials())


def test_three_failures_for_one_reason_end_a_sweep(tmp_path: Path) -> None:
    runner = runner_of(tmp_path)
    assert fail_all(runner, "no memory at step 1", "no memory at step 20") is None
    assert fail_all(runner, "no memory at step 3") == "no memory at step 1"


def test_failures_for_several_reasons_do_not(tmp_path: Path) -> None:
    assert fail_all(runner_of(tmp_path), "no memory", "no memory", "the loss is not finite") is None


def test_failures_beside_a_result_do_not(tmp_path: Path) -> None:
    runner = runner_of(tmp_path)
    trial, _ = claimed(runner)
    runner.study.complete(trial, 0.5)
    assert fail_all(runner, "no memory", "no memory", "no memory") is None
    assert [trial.user_attrs.get(REASON) for trial in runner.study.trials()] == [None, *["no memory"] * 3]
