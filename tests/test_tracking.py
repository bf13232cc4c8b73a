"""MLflow's record: complete, without doubles, and never in the way of training."""

import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from cifar10.compose import load_config
from cifar10.config import TrackingConfig
from cifar10.errors import UserError
from cifar10.mlflow_tracker import MLflowTracker
from cifar10.tracking import LOCAL_URI, NoTracker, open_tracker

HISTORY = [{"epoch": epoch, "step": 10 * epoch, "train/loss": 1.0 / (epoch + 1)} for epoch in range(4)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose SQLite store is made once for all tests here; making one takes seconds."""
    return tmp_path_factory.mktemp("store")


def make_config(store: Path, **changes: object) -> TrackingConfig:
    config = load_config(["data_loading=shapes", "model=simple_cnn"]).tracking
    local = {"uri": f"sqlite:///{store}/mlflow.db", "artifacts": str(store / "artifacts"), "system_metrics": False}
    return config.model_copy(update={**local, **changes})


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_epochs_are_recorded_once_also_over_a_resume(store: Path) -> None:
    tracker = open_tracker(make_config(store), "run")
    tracker.start({"training.epochs": 4}, {"git_commit": "abc"}, {"name": "toy", "digest": "0" * 64, "source": "x"})
    tracker.log_history(HISTORY[:1])
    tracker.log_history(HISTORY[:2])
    tracker.finish("KILLED")
    resumed = open_tracker(make_config(store), "run", tracker.run_id)
    resumed.log_history(HISTORY)
    resumed.finish("FINISHED")
    assert isinstance(resumed, MLflowTracker) and resumed.run_id == tracker.run_id
    run = resumed.client.get_run(resumed.run_id)
    metrics = resumed.client.get_metric_history(resumed.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in metrics] == [(e["epoch"], e["train/loss"]) for e in HISTORY]
    assert run.data.params == {"training.epochs": "4"}
    assert run.data.tags["git_commit"] == run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.tags["mlflow.source.name"] == "commands.py"
    assert run.info.status == "FINISHED"
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "toy"


def test_files_arrive(store: Path, tmp_path: Path) -> None:
    tracker = open_tracker(make_config(store), "run")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    tracker.log_file(tmp_path / "config.yaml", "")
    tracker.finish("FINISHED")
    assert isinstance(tracker, MLflowTracker)
    assert [item.path for item in tracker.client.list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_an_absent_server_costs_a_warning_and_a_local_store_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"http://127.0.0.1:{closed_port()}"
    with caplog.at_level(logging.WARNING):
        tracker = open_tracker(make_config(tmp_path, uri=uri), "run")
    tracker.finish("FINISHED")
    assert isinstance(tracker, MLflowTracker) and tracker.uri == LOCAL_URI
    assert f"no MLflow server answers at {uri}" in caplog.text


def test_an_absent_server_ends_a_run_that_requires_it(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(UserError, match=r"no MLflow server answers.*tracking\.required=false"):
        open_tracker(make_config(tmp_path, uri=uri, required=True), "run")


def test_what_was_flushed_is_in_the_store(store: Path) -> None:
    tracker = open_tracker(make_config(store), "run")
    assert isinstance(tracker, MLflowTracker)
    tracker.log_history(HISTORY)
    tracker.flush()
    assert len(tracker.client.get_metric_history(tracker.run_id, "train/loss")) == len(HISTORY)
    tracker.finish("FINISHED")


def test_a_store_that_dies_is_named_and_training_hears_nothing(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(make_config(store), "run")
    assert isinstance(tracker, MLflowTracker)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the store is gone")

    monkeypatch.setattr(tracker.client, "log_batch", fail)
    with caplog.at_level(logging.WARNING):
        tracker.log_history(HISTORY)
        tracker.log_scores({"test/accuracy": 0.5}, step=3)
        tracker.finish("FINISHED")
    assert "training goes on: the store is gone" in caplog.text
    assert "has gaps" in caplog.text


def test_a_store_that_was_away_misses_nothing_and_gets_nothing_twice(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(make_config(store), "run")
    assert isinstance(tracker, MLflowTracker)
    log_batch, answers = tracker.client.log_batch, iter([False, True, False, True, True, True])

    def falter(*arguments: Any, **named: Any) -> Any:
        result = log_batch(*arguments, **named)  # the worst case: it is stored, and then the answer is lost
        if not next(answers, True):
            raise ConnectionError("the store is gone")
        return result

    monkeypatch.setattr(tracker.client, "log_batch", falter)
    with caplog.at_level(logging.WARNING):
        for end in range(1, len(HISTORY) + 1):
            tracker.log_history(HISTORY[:end])
        tracker.finish("FINISHED")
    metrics = tracker.client.get_metric_history(tracker.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in metrics) == [(e["epoch"], e["train/loss"]) for e in HISTORY]
    assert tracker.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "answers again" in caplog.text
    assert "has gaps" not in caplog.text


def test_what_can_never_be_sent_does_not_hold_up_the_rest(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(make_config(store), "run")
    assert isinstance(tracker, MLflowTracker)
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            tracker.log_file(tmp_path / f"missing{number}", "")
        tracker.log_history(HISTORY)
        tracker.finish("FINISHED")
    assert len(tracker.client.get_metric_history(tracker.run_id, "train/loss")) == len(HISTORY)
    assert tracker.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "has gaps" in caplog.text


def test_two_runs_may_make_the_same_experiment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_tracker(make_config(store, experiment="contested"), "first")
    first.finish("FINISHED")
    assert isinstance(first, MLflowTracker)
    experiments = iter([None, first.client.get_experiment_by_name("contested")])
    monkeypatch.setattr("mlflow.MlflowClient.get_experiment_by_name", lambda *_: next(experiments))
    second = open_tracker(make_config(store, experiment="contested"), "second")
    second.finish("FINISHED")
    assert isinstance(second, MLflowTracker)


def test_switched_off_it_is_off(tmp_path: Path) -> None:
    assert isinstance(open_tracker(make_config(tmp_path, backend="none"), "run"), NoTracker)
    assert not list(tmp_path.iterdir())
