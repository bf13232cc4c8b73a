"""A run that MLflow could not take is recorded later from its folder, once and whole."""

import csv
import json
import os
import socket
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar10.config.compose import load_config
from cifar10.config.mlflow_uri import absolute_uri
from cifar10.config.schema import Config
from cifar10.errors import UsageError, UserError
from cifar10.runs.record import RunRecord, Status
from cifar10.runs.tracking import open_tracker
from cifar10.sync import sync

HISTORY = [{"epoch": n, "step": 4.0 * n, "train/loss": 1.0 / (n + 1), "seconds": 2.0} for n in range(3)]
SCORES = {"test/accuracy": 0.75, "train/loss": HISTORY[-1]["train/loss"], "wall_seconds": 9.0}
FIGURES = ("curves.png", "confusion.png", "best.ckpt")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose store is made once for all tests here; making one takes seconds."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(autouse=True)
def _in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def config_of(backend: str, **tracking: object) -> Config:
    config = load_config(["experiment=demo", "tracking.system_metrics=false"])
    section = config.tracking.model_copy(update={"backend": backend, **tracking})
    return config.model_copy(update={"tracking": section})


def make_run(name: str, status: Status | None = "FINISHED", backend: str = "none", **tracking: object) -> Path:
    """Write a run's folder as training does, and tell the tracker; a run without a status was killed without a word."""
    config, folder = config_of(backend, **tracking), Path("models") / name
    folder.mkdir(parents=True)
    tracker = open_tracker(config.tracking, folder)
    data = {"name": "shapes", "digest": "0" * 64, "source": "x"}
    tracker.start(config.plain(), {"git_commit": "abc", "data": "shapes", "model": "SimpleCNN"}, data)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.plain()))
    tracker.log_file(folder / "config.yaml", "")
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(HISTORY[0]))
        writer.writeheader()
        writer.writerows(HISTORY)
    tracker.log_history(HISTORY)
    if status == "FINISHED":
        (folder / "scores.json").write_text(json.dumps({**SCORES, "seed": 0, "class_names": ["a/b"]}))
        for file_name in FIGURES:
            (folder / file_name).write_bytes(file_name.encode())
        tracker.log_scores(SCORES, step=2)
        for file_name, place in [("scores.json", ""), ("history.csv", "")]:
            tracker.log_file(folder / file_name, place)
        for file_name in FIGURES:
            tracker.log_file(folder / file_name, "checkpoints" if file_name.endswith("ckpt") else "figures")
    if status is not None:
        tracker.finish(status)
    return folder


def client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(absolute_uri("sqlite:///mlruns/mlflow.db"))


def recorded(folder: Path) -> dict[str, Any]:
    """Return all that MLflow has of a run."""
    run_id = (folder / "run_id").read_text().strip()
    run = client().get_run(run_id)
    places = ("", "figures", "checkpoints")
    files = [item for place in places for item in client().list_artifacts(run_id, place or None) if not item.is_dir]
    return {
        "run_id": run_id,
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if key not in ("run_key", "mlflow.runName")},
        "metrics": {
            key: [(metric.step, metric.value) for metric in client().get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "data": [(x.dataset.name, x.dataset.digest) for x in run.inputs.dataset_inputs],
        "files": {item.path: item.file_size for item in files},
        "times": (run.info.start_time, run.info.end_time),
        "status": run.info.status,
    }


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_run_recorded_later_is_as_one_recorded_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    at_once = recorded(make_run("at_once", backend="mlflow"))
    folder = make_run("later")
    sync("later")
    line = told(capsys)
    assert line.startswith("later: recorded ")
    assert "3 epochs, 2 scores, 6 files, its end as FINISHED; see " in line
    later = recorded(folder)
    record = RunRecord.of(folder)
    assert record is not None
    assert later["times"] == (record.started, record.ended)
    assert later["params"].pop("tracking.backend") == "none"
    assert at_once["params"].pop("tracking.backend") == "mlflow"
    for name in ("params", "tags", "metrics", "data", "status"):
        assert later[name] == at_once[name]
    assert set(later["files"]) == set(at_once["files"])


@pytest.mark.slow
def test_the_second_time_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("twice")
    sync("twice")
    before = recorded(folder)
    told(capsys)
    sync("twice")
    assert told(capsys).startswith("twice: its record was complete, nothing was sent")
    assert recorded(folder) == before
    assert len(client().search_runs(["1"], filter_string="tags.mlflow.runName = 'twice'")) == 1


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_a_run_that_was_recorded_at_once_is_complete(status: Status, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(f"complete_{status}", status, backend="mlflow")
    before = recorded(folder)
    sync(folder.name)
    assert "its record was complete, nothing was sent" in told(capsys)
    assert recorded(folder) == before


def test_only_what_is_missing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("gaps", backend="mlflow")
    whole = recorded(folder)
    (Path("mlruns/artifacts") / whole["run_id"] / "artifacts/figures/curves.png").unlink()
    with sqlite3.connect("mlruns/mlflow.db") as database:
        for statement in (
            "DELETE FROM metrics WHERE run_uuid = ? AND step = 1",
            "DELETE FROM params WHERE run_uuid = ? AND key = 'seed'",
            "UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?",
        ):
            database.execute(statement, (whole["run_id"],))
    database.close()
    sync("gaps")
    assert "recorded 1 parameter, 1 epoch, 1 file, its end as FINISHED;" in told(capsys)
    completed = recorded(folder)
    completed["metrics"] = {key: sorted(points) for key, points in completed["metrics"].items()}
    assert completed == whole


def test_a_run_that_was_killed_without_a_word_is_recorded_as_killed(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("killed", status=None)
    values = json.loads((folder / "run.json").read_text())
    values["process"]["started"] -= 100  # that process is gone; another one has its number
    (folder / "run.json").write_text(json.dumps(values))
    os.utime(folder / "history.csv", (2_000_000_000, 2_000_000_000))
    sync("killed")
    assert "3 epochs, 2 files, its end as KILLED" in told(capsys)
    assert recorded(folder)["times"][1] == 2_000_000_000_000
    sync("killed")
    assert "was complete" in told(capsys)


def test_a_run_that_is_running_is_left_to_its_own_process() -> None:
    folder = make_run("running", status=None)
    assert json.loads((folder / "run.json").read_text())["process"]["pid"] == os.getpid()
    with pytest.raises(UserError, match="running is still running"):
        sync("running")
    assert not (folder / "run_id").exists()


def test_a_run_on_another_machine_has_ended_when_its_folder_rests() -> None:
    folder = make_run("far", status=None)
    values = json.loads((folder / "run.json").read_text())
    values["process"]["host"] = "elsewhere"
    (folder / "run.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="still running"):
        sync("far")
    for file in folder.iterdir():
        os.utime(file, (time.time() - 1000, time.time() - 1000))
    sync("far")
    assert recorded(folder)["status"] == "KILLED"


def test_a_description_that_a_user_wrote_is_kept() -> None:
    folder = make_run("described", backend="mlflow")
    run_id = (folder / "run_id").read_text().strip()
    client().set_tag(run_id, "mlflow.note.content", "my best one")
    sync("described")
    assert recorded(folder)["tags"]["mlflow.note.content"] == "my best one"


def test_without_a_name_all_runs_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        make_run(name).rename(tmp_path / name)
    sync(models_dir=str(tmp_path))
    assert [line.partition(":")[0] for line in told(capsys).splitlines()] == ["one", "two"]


def test_a_store_that_is_away_is_told_at_once() -> None:
    make_run("waiting")
    started = time.monotonic()
    with pytest.raises(UserError, match="waiting was not recorded: no MLflow server responds at http:"):
        sync("waiting", tracking_uri="http://127.0.0.1:9")
    assert time.monotonic() - started < 10


def test_what_is_no_run_and_no_store_is_refused(tmp_path: Path) -> None:
    make_run("known")
    with pytest.raises(UsageError, match="there is no run knwon in models/; did you mean known"):
        sync("knwon")
    with pytest.raises(UsageError, match="there is no run in "):
        sync(models_dir=str(tmp_path))
    with pytest.raises(UsageError, match=r"--tracking_uri: \./mlruns is a folder"):
        sync("known", tracking_uri="./mlruns")


@pytest.mark.parametrize("name", ["config.yaml", "scores.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_damaged_is_named(name: str, content: str) -> None:
    folder = make_run(f"damaged_{name.partition('.')[0]}_{ord(content[0])}")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="cannot be read as a run"):
        sync(folder.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"started": "x"},
        {"started": -1},
        {"ended": 10**30},
        {"tags": [1]},
        {"tags": {"a": {}}},
        {"data": "x"},
        {"process": 7},
        {"process": {"host": socket.gethostname(), "pid": 10**40, "started": "x"}, "ended": None},
        {"status": "ODD"},
        {"key": "' or '1'='1"},
        {"name": 5},
        [],
        7,
    ],
    ids=json.dumps,
)
def test_a_run_whose_record_is_of_wrong_types_is_recorded_all_the_same(
    values: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(f"odd_{uuid.uuid4().hex}")
    before = json.loads((folder / "run.json").read_text())
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).unlink(missing_ok=True)  # then no older version's record can be made from it
    (folder / "run.json").write_text(json.dumps({**before, **values} if isinstance(values, dict) else values))
    sync(folder.name)
    assert "3 epochs" in told(capsys)


@pytest.mark.parametrize("newer", ["epochs", "end"])
def test_an_older_copy_of_a_run_does_not_replace_its_record(newer: str) -> None:
    folder = make_run(f"went_on_{newer}", backend="mlflow")
    before = recorded(folder)
    (folder / "scores.json").unlink()
    RunRecord.of(folder).end("KILLED")  # type: ignore[union-attr]
    if newer == "epochs":
        rows = (folder / "history.csv").read_text().splitlines(keepends=True)
        (folder / "history.csv").write_text("".join(rows[:2]))
    with pytest.raises(UserError, match="an older copy of the run; nothing was sent"):
        sync(folder.name)
    assert recorded(folder) == before


def test_a_link_to_itself_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("looped")
    (folder / "scores.json").unlink()
    (folder / "scores.json").symlink_to("scores.json")
    sync(folder.name)
    assert "3 epochs" in told(capsys)


def test_a_link_to_a_file_elsewhere_is_not_sent(tmp_path: Path) -> None:
    folder = make_run("linked")
    secret = tmp_path / "secret"
    secret.write_text("of the user")
    (folder / "curves.png").unlink()
    (folder / "curves.png").symlink_to(secret)
    with pytest.raises(UserError, match="is a link to"):
        sync("linked", tracking_uri="sqlite:///linked.db")
    assert not Path("linked.db").exists()
