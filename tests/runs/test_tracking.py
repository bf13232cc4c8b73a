"""MLflow's record: complete, without doubles, and never in the way of training."""

import contextlib
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifar10.commands import training as commands
from cifar10.config.compose import load_config
from cifar10.config.mlflow_uri import absolute_uri
from cifar10.config.schema import TrackingConfig
from cifar10.errors import UserError
from cifar10.runs import mlflow_store, mlflow_tracker
from cifar10.runs.mlflow_tracker import MLflowTracker
from cifar10.runs.record import RunRecord
from cifar10.runs.tracking import NoTracker, open_tracker, require_store
from tests.runs.mlflow_server import mlflow_server, wait_until
from tests.serving.http.serving_process import free_port

HISTORY = [{"epoch": epoch, "step": 10 * epoch, "train/loss": 1.0 / (epoch + 1)} for epoch in range(4)]
DATA = {"name": "toy", "digest": "0" * 64, "source": "x"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose SQLite store is made once for all tests here; making one takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that is waited for take a fraction of a second."""
    monkeypatch.setattr(mlflow_store, "_PROBE_SECONDS", 0.2)
    for name in ("_RETRY_SECONDS", "_UNAVAILABLE_SECONDS"):
        monkeypatch.setattr(mlflow_tracker, name, 0.3)


def make_config(store: Path, **changes: object) -> TrackingConfig:
    config = load_config(["data_loading=shapes", "model=simple_cnn"]).tracking
    local = {"uri": f"sqlite:///{store}/mlflow.db", "system_metrics": False}
    return config.model_copy(update={**local, **changes})


def opened(config: TrackingConfig, folder: Path) -> MLflowTracker:
    tracker = open_tracker(config, folder)
    assert isinstance(tracker, MLflowTracker)
    return tracker


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient  # takes seconds, which tests that are not run need not take

    return MlflowClient(absolute_uri(uri))


def epochs_of(tracker: MLflowTracker) -> list[tuple[int, float]]:
    client = client_of(tracker.uri)
    assert tracker.run_id is not None
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(tracker.run_id, "train/loss"))


ALL_EPOCHS = [(entry["epoch"], entry["train/loss"]) for entry in HISTORY]


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the lock of a SQLite database, as a program that writes and never ends."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def changes_of_state(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, but for the word that a busy machine takes its time."""
    told = [record.message for record in caplog.records if record.name.startswith("cifar10")]
    return [line for line in told if not line.startswith("waiting for MLflow")]


@pytest.mark.slow
def test_epochs_are_recorded_once_also_over_a_resume(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.start({"training": {"epochs": 4}}, {"git_commit": "abc", "model": "Net"}, DATA)
    tracker.log_history(HISTORY[:1])
    tracker.log_history(HISTORY[:2])
    tracker.finish("KILLED")
    resumed = opened(make_config(store), tmp_path)
    resumed.log_history(HISTORY)
    resumed.finish("FINISHED")
    assert resumed.run_id == tracker.run_id == (tmp_path / "run_id").read_text().strip()
    assert resumed.store is not None and resumed.run_id is not None
    run = resumed.store.client.get_run(resumed.run_id)
    assert epochs_of(resumed) == ALL_EPOCHS
    assert run.data.params == {"training.epochs": "4"}
    assert run.data.tags["git_commit"] == run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.tags["mlflow.source.name"] == "commands.py"
    assert run.info.status == "FINISHED"
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "toy"


@pytest.mark.slow
def test_a_setting_that_a_resume_changes_is_kept_as_a_tag(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"name": "shapes", "digest": "0" * 64, "source": "x"}
    for epochs in (4, 5):
        tracker = opened(make_config(store), tmp_path)
        tracker.start({"training": {"epochs": epochs, "batch_size": 8}}, {}, data)
        tracker.finish("FINISHED")
    assert tracker.store is not None and tracker.run_id is not None
    run = tracker.store.client.get_run(tracker.run_id)
    assert run.data.params == {"training.epochs": "4", "training.batch_size": "8"}
    assert run.data.tags["resumed.training.epochs"] == "5"
    assert not caplog.messages


def test_a_gap_that_an_interrupted_run_left_is_filled_when_it_is_resumed(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.log_history([HISTORY[0], HISTORY[2]])
    tracker.finish("KILLED")
    resumed = opened(make_config(store), tmp_path)
    resumed.log_history(HISTORY)
    resumed.finish("FINISHED")
    assert epochs_of(resumed) == ALL_EPOCHS


def test_a_run_whose_id_the_folder_lost_is_found_again(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.start({}, {}, DATA)
    tracker.finish("KILLED")
    (tmp_path / "run_id").unlink()  # as if the process had died between the making of the run and the answer
    resumed = opened(make_config(store), tmp_path)
    resumed.finish("FINISHED")
    assert resumed.run_id == tracker.run_id


def test_a_run_that_the_store_does_not_know_is_begun_anew(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(make_config(store), tmp_path, "f" * 32)
    tracker.log_history(HISTORY)
    tracker.finish("FINISHED")
    assert isinstance(tracker, MLflowTracker)
    assert tracker.run_id != "f" * 32
    assert epochs_of(tracker) == ALL_EPOCHS
    assert "does not know run " + "f" * 32 in caplog.text


def test_files_arrive(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    tracker.log_file(tmp_path / "config.yaml", "")
    tracker.finish("FINISHED")
    assert tracker.store is not None and tracker.run_id is not None
    assert [item.path for item in tracker.store.client.list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_scores_of_the_last_epoch_are_not_recorded_twice(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.log_history(HISTORY)
    time.sleep(0.01)  # two entries of one millisecond would be one
    tracker.log_scores({"test/accuracy": 0.5, "train/loss": 0.25}, step=3)
    tracker.finish("FINISHED")
    assert epochs_of(tracker) == ALL_EPOCHS


def test_a_page_of_mlflow_shows_accuracy_data_and_model(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.start({}, {"data": "cifar10", "model": "SpeedNet"}, DATA)
    tracker.log_scores({"test/accuracy": 0.9402, "test/accuracy_tta": 0.9415}, step=3)
    tracker.finish("FINISHED")
    assert tracker.store is not None and tracker.run_id is not None
    tags = tracker.store.client.get_run(tracker.run_id).data.tags
    assert (tags["data"], tags["model"]) == ("cifar10", "SpeedNet")
    assert tags["mlflow.note.content"].startswith("Test accuracy 94.15%, 94.02% without test-time augmentation")


def test_an_experiment_that_somebody_else_made_shows_training_too(store: Path, tmp_path: Path) -> None:
    client = client_of(f"sqlite:///{store}/mlflow.db")
    experiment = client.create_experiment("by hand")
    opened(make_config(store, experiment="by hand"), tmp_path).finish("FINISHED")
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_absent_server_costs_one_line_at_the_start_and_one_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "first").mkdir()
    tracker = open_tracker(make_config(tmp_path, uri=uri), tmp_path / "first")
    tracker.start({}, {}, DATA)
    tracker.log_history(HISTORY)
    time.sleep(1)
    tracker.finish("FINISHED")
    reason = f"no MLflow server responds at {uri} (Connection refused)"
    assert [record.message for record in caplog.records] == [
        f"{reason}; training continues, and the record is sent when the store is available",
        f"MLflow's record of this run has gaps: {reason}. The run's folder is complete; record it later with: "
        f"python commands.py sync first --models_dir={tmp_path} --tracking_uri={uri}",
    ]
    assert capfd.readouterr().err == ""
    assert tracker.run_id is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["server", "locked database", "no folder"])
def test_what_is_away_ends_a_run_that_requires_it(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = {
        "server": f"http://127.0.0.1:{free_port()}",
        "locked database": f"sqlite:///{tmp_path}/mlflow.db",
        "no folder": f"sqlite:///{tmp_path}/file/mlflow.db",
    }[kind]
    (tmp_path / "file").touch()
    sqlite3.connect(tmp_path / "mlflow.db").close()
    started = time.monotonic()
    config = make_config(tmp_path, uri=uri, required=True)
    with locked(tmp_path / "mlflow.db"):
        with pytest.raises(UserError, match=r"(MLflow|written).*tracking\.required=false"):
            require_store(config)
        assert time.monotonic() - started < 10
        with pytest.raises(UserError, match=r"(MLflow|written).*tracking\.required=false"):
            open_tracker(config, tmp_path)
    thread = next((thread for thread in threading.enumerate() if thread.name == "mlflow"), None)
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive()
    assert not caplog.records
    assert not (tmp_path / "run_id").exists()  # nothing is begun after the refusal


def test_a_required_store_that_is_away_is_told_before_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cifar10 import train as training  # imports PyTorch

    monkeypatch.chdir(tmp_path)
    words = ["data_loading=shapes", f"tracking.uri=http://127.0.0.1:{free_port()}", "tracking.required=true"]
    monkeypatch.setattr("cifar10.train._load_data", None)
    with pytest.raises(UserError, match=r"tracking\.required=false"):
        training.train(load_config(words))
    monkeypatch.setitem(sys.modules, "cifar10.train", None)  # nor is PyTorch imported
    with pytest.raises(UserError, match=r"tracking\.required=false"):
        commands.train(*words)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_run_that_began_while_the_store_was_away_is_recorded_whole(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(make_config(store), tmp_path).finish("FINISHED")
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(store / "mlflow.db"):
        tracker = opened(make_config(store), folder)
        assert tracker.run_id is None
        tracker.start({"seed": 0}, {"model": "Net"}, DATA)
        tracker.log_history(HISTORY[:2])
        time.sleep(0.5)
    tracker.log_history(HISTORY)
    wait_until(lambda: tracker.run_id)
    tracker.finish("FINISHED")
    assert epochs_of(tracker) == ALL_EPOCHS
    assert tracker.store is not None and tracker.run_id is not None
    run = tracker.store.client.get_run(tracker.run_id)
    record = RunRecord.of(folder)
    assert record is not None
    assert (run.info.start_time, run.info.end_time, run.info.status) == (record.started, record.ended, "FINISHED")
    assert run.data.params == {"seed": "0"}
    told = changes_of_state(caplog)
    assert len(told) == 2
    assert "is locked by another program; training continues" in told[0]
    assert "is available again, and has received what it missed" in told[1]


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_lock_in_mid_run_costs_two_lines(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = opened(make_config(store, system_metrics=True), tmp_path)
    tracker.start({}, {}, DATA)
    tracker.flush()
    with locked(store / "mlflow.db"):
        for end in range(1, len(HISTORY) + 1):
            tracker.log_history(HISTORY[:end])
            time.sleep(0.4)
    wait_until(lambda: tracker.failure is None)
    tracker.finish("FINISHED")
    assert epochs_of(tracker) == ALL_EPOCHS
    assert len([line for line in changes_of_state(caplog) if str(store) in line]) == 2  # not those of earlier tests
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_store_that_went_away_for_good_does_not_hold_up_the_end(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.flush()
    with locked(store / "mlflow.db"):
        tracker.log_history(HISTORY)
        wait_until(lambda: tracker.failure is not None)
        started = time.monotonic()
        tracker.finish("FINISHED")
        assert time.monotonic() - started < 10
    assert "has gaps" in caplog.text
    assert "python commands.py sync" in caplog.text


def test_what_was_flushed_is_in_the_store(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    tracker.log_history(HISTORY)
    tracker.flush()
    assert epochs_of(tracker) == ALL_EPOCHS
    tracker.finish("FINISHED")


def test_a_store_that_refuses_is_named_and_training_hears_nothing(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened(make_config(store), tmp_path)
    assert tracker.store is not None

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the store is gone")

    monkeypatch.setattr(tracker.store.client, "log_batch", fail)
    tracker.log_history(HISTORY)
    tracker.log_scores({"test/accuracy": 0.5}, step=3)
    tracker.flush()
    tracker.finish("FINISHED")
    assert "did not accept a record: the store is gone; training continues" in caplog.text
    assert "has gaps" in caplog.text


def test_a_store_that_was_away_misses_nothing_and_gets_nothing_twice(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened(make_config(store), tmp_path)
    assert tracker.store is not None and tracker.run_id is not None
    log_batch, answers = tracker.store.client.log_batch, iter([False, True, False, True, True, True])

    def falter(*arguments: Any, **named: Any) -> Any:
        result = log_batch(*arguments, **named)  # the worst case: it is stored, and then the answer is lost
        if not next(answers, True):
            raise ConnectionError("the store is gone")
        return result

    monkeypatch.setattr(tracker.store.client, "log_batch", falter)
    for end in range(1, len(HISTORY) + 1):
        tracker.log_history(HISTORY[:end])
        tracker.flush()
    tracker.finish("FINISHED")
    assert epochs_of(tracker) == ALL_EPOCHS
    assert tracker.store.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "is available again" in caplog.text
    assert "has gaps" not in caplog.text


def test_what_can_never_be_sent_does_not_hold_up_the_rest(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened(make_config(store), tmp_path)
    for number in range(5):
        tracker.log_file(tmp_path / f"missing{number}", "")
    tracker.log_history(HISTORY)
    tracker.finish("FINISHED")
    assert epochs_of(tracker) == ALL_EPOCHS
    assert tracker.store is not None and tracker.run_id is not None
    assert tracker.store.client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "has gaps" in caplog.text


def test_what_is_no_number_does_not_break_the_record(store: Path, tmp_path: Path) -> None:
    tracker = opened(make_config(store), tmp_path)
    broken: list[Any] = [HISTORY[0], {"epoch": 1, "train/loss": float("nan"), "val/loss": None, "lr": float("inf")}]
    tracker.log_history(broken)
    tracker.log_scores({"test/loss": float("nan")}, step=1)
    tracker.log_history([*broken, *HISTORY[2:]])
    tracker.finish("FINISHED")
    assert [step for step, _ in epochs_of(tracker)] == [0, 1, 2, 3]


def test_use_of_the_system_is_recorded(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_tracker, "_SAMPLING_SECONDS", 0.1)
    tracker = opened(make_config(store, system_metrics=True), tmp_path)
    client, name = client_of(tracker.uri), "system/cpu_utilization_percentage"
    wait_until(lambda: len(client.get_metric_history(tracker.run_id, name)) > 1)
    tracker.finish("FINISHED")


def test_two_runs_may_make_the_same_experiment(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "second").mkdir()
    first = opened(make_config(store, experiment="contested"), tmp_path)
    first.finish("FINISHED")
    assert first.store is not None
    experiments = iter([None, first.store.client.get_experiment_by_name("contested")])
    monkeypatch.setattr("mlflow.MlflowClient.get_experiment_by_name", lambda *_: next(experiments))
    second = opened(make_config(store, experiment="contested"), tmp_path / "second")
    second.finish("FINISHED")
    assert second.store is not None
    assert second.store.experiment_id == first.store.experiment_id


def test_an_experiment_that_was_deleted_is_told_with_the_way_out(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(make_config(store, experiment="unloved"), tmp_path)
    first.finish("FINISHED")
    assert first.store is not None
    first.store.client.delete_experiment(first.store.experiment_id)
    with pytest.raises(UserError, match=r"unloved was deleted in MLflow; restore it \(mlflow experiments restore"):
        open_tracker(make_config(store, experiment="unloved", required=True), tmp_path)


def test_the_page_of_a_run_is_in_its_experiment_whatever_that_is_called_today(store: Path, tmp_path: Path) -> None:
    first = opened(make_config(store, experiment="draft"), tmp_path)
    first.finish("FINISHED")
    assert first.store is not None
    experiment_id = first.store.experiment_id
    first.store.client.rename_experiment(experiment_id, "published")
    resumed = opened(make_config(store, experiment="draft"), tmp_path)
    resumed.finish("FINISHED")
    assert resumed.run_id == first.run_id
    assert f"/#/experiments/{experiment_id}/runs/{first.run_id}?" in resumed.describe()


def test_switched_off_it_is_off(tmp_path: Path) -> None:
    tracker = open_tracker(make_config(tmp_path, backend="none"), tmp_path)
    tracker.start({}, {}, DATA)
    tracker.finish("FINISHED")
    assert isinstance(tracker, NoTracker)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.slow
def test_files_of_a_store_that_was_moved_are_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = tmp_path / "old project", tmp_path / "new project"
    runs = []
    for project, name in ((old, "a"), (new, "b")):
        if project == new:
            old.rename(new)
        folder = project / "models" / name
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text("epoch\n")
        monkeypatch.chdir(project)
        tracker = opened(make_config(project, uri="sqlite:///mlruns/mlflow.db"), folder)
        tracker.log_file(folder / "history.csv", "")
        tracker.finish("FINISHED")
        runs.append(tracker.run_id)
    client = client_of(f"sqlite:///{new}/mlruns/mlflow.db")
    for run_id in runs:
        assert [item.path for item in client.list_artifacts(run_id)] == ["history.csv"]
        assert (new / "mlruns" / "artifacts" / str(run_id) / "artifacts" / "history.csv").exists()
    assert not old.exists()
    assert f"MLflow's store was made for files in {old}/mlruns/artifacts; they are now kept in {new}" in caplog.text


def test_files_that_stayed_where_they_were_are_still_found(store: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    trackers = []
    for name in ("first", "second"):
        (tmp_path / name / "history.csv").write_text("epoch\n")
        place = str(tmp_path / f"files of {name}")
        tracker = opened(make_config(store, experiment="elsewhere", artifacts=place), tmp_path / name)
        tracker.log_file(tmp_path / name / "history.csv", "")
        tracker.finish("FINISHED")
        trackers.append(tracker)
        assert (tmp_path / f"files of {name}" / str(tracker.run_id)).is_dir()
    assert trackers[1].store is not None
    for tracker in trackers:
        assert tracker.run_id is not None
        assert [item.path for item in trackers[1].store.client.list_artifacts(tracker.run_id)] == ["history.csv"]


@pytest.mark.slow
def test_a_server_that_comes_late_and_leaves_early_costs_a_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    (tmp_path / "run").mkdir()
    tracker = opened(make_config(tmp_path, uri=f"http://127.0.0.1:{port}"), tmp_path / "run")
    tracker.start({"seed": 0}, {}, DATA)
    tracker.log_history(HISTORY[:2])
    with mlflow_server(tmp_path, port):
        wait_until(lambda: tracker.run_id and tracker.failure is None)
        tracker.log_history(HISTORY)
        tracker.flush()
        assert epochs_of(tracker) == ALL_EPOCHS
        assert tracker.describe().startswith(f"http://127.0.0.1:{port}/#/experiments/")
    started = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - started < 15
    told = changes_of_state(caplog)
    assert len(told) == 3
    assert "is available again" in told[1]
    assert "has gaps" in told[2]


@pytest.fixture(autouse=True)
def _hear_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
