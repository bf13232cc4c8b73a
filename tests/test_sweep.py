"""`sweep`, end to end on a few drawn shapes: trials are ordinary runs, and none is lost or made twice."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.runs.record import RunRecord
from cifar10.train import RunOptions, train
from commands import COMMANDS
from tests.tiny_run import TINY

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ("sweep", *TINY, "model.width=4", "--study=few")
LONG = (
    *SWEEP,
    *("data_loading.train_size=400", "training.epochs=25", "training.save_every_seconds=null", "training.threads=1"),
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def results() -> dict[str, Any]:
    return dict(json.loads(Path("models/few/results.json").read_text()))


def states() -> list[tuple[str, int]]:
    return [(trial["state"], trial["attempts"]) for trial in results()["trials"]]


@pytest.mark.slow
def test_a_grid_is_trained_compared_and_reported_without_the_test_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("cifar10.train.test", lambda *_, **__: pytest.fail("the test images are used"))
        assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["trial", "val/loss", "lr", "seconds"]
    assert len(out.splitlines()) == 3
    assert "trial-0001 (2 of 2): optimizer.lr=0.05" in err and "to go, about" in err
    assert results()["best"]["trial"] == out.splitlines()[1].split()[0]
    assert states() == [("complete", 1)] * 2
    facts = json.loads(Path("models/few/trial-0000/scores.json").read_text())
    assert "val/loss" in facts and not [key for key in facts if key.startswith("test/")]
    assert {file.name for file in Path("models/few/trial-0000").iterdir()} >= {"best.ckpt", "curves.png", "config.yaml"}
    assert not Path("models/few/trial-0000/confusion.png").exists()
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05", "--resume", "--test"]) == 0
    assert "test accuracy of trial-" in capsys.readouterr().out
    assert results()["test"]["test/accuracy"] >= 0


@pytest.mark.slow
def test_the_printed_line_trains_the_best_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("next "))
    words = line.partition(" train ")[2].split()
    assert load_config(words).optimizer.arguments["lr"] == results()["best"]["values"]["optimizer.lr"]


def test_an_untested_run_is_tested_when_it_is_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config([*TINY, "model.width=4", "run_name=few"])
    train(config, options=RunOptions(is_tested=False, tags={"a": "b"}))
    record = RunRecord.of(Path("models/few"))
    assert record is not None and record.tags["a"] == "b"
    assert capsys.readouterr().out == ""
    digest = json.loads(Path("models/few/scores.json").read_text())["weights_digest"]
    assert "test/accuracy" not in train(config, resume="auto", options=RunOptions(is_tested=False))
    assert "test/accuracy" in train(config, resume="auto")
    facts = json.loads(Path("models/few/scores.json").read_text())
    assert "test/accuracy" in facts and facts["weights_digest"] == digest


@pytest.mark.slow
def test_the_best_trial_cannot_be_tested_without_its_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SWEEP, "optimizer.lr=0.001,0.05"]
    assert main(COMMANDS, "", words) == 0
    for checkpoint in list(Path("models").rglob("best.ckpt")):
        checkpoint.unlink()
    assert main(COMMANDS, "", [*words, "--resume", "--test"]) == 1
    told = capsys.readouterr().err
    assert "best.ckpt is no longer there; restore the folder of this trial, or leave out --test" in told


@pytest.mark.slow
def test_failed_trials_are_marked_and_the_others_compared(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SWEEP, "optimizer.lr=0.001,1e30", "training.gradient_clip=null"]
    assert main(COMMANDS, "", words) == 3
    trials = results()["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed"]
    assert "not finite" in trials[1]["reason"] and "not finite" in capsys.readouterr().err
    record = RunRecord.of(Path("models/few/trial-0001"))
    assert record is not None and record.status == "FAILED" and record.tags["sweep.state"] == "failed"


@pytest.mark.slow
def test_a_sweep_of_which_all_fail_ends_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=1e30,2e30,3e30,4e30,5e30"]) == 1
    assert "error: the first trials all failed: the loss is not finite" in capsys.readouterr().err
    assert [trial["state"] for trial in results()["trials"]] == ["failed"] * 3 + ["waiting"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials=0"], "--trials=0: must be a whole number, 1 or more"),
        (["seed=0,1", "--resume"], "there is no study few to resume"),
        (["seed=0,1", "--storage=study.db"], "write sqlite:///study.db"),
        (["optimizr.lr=1,2"], "did you mean optimizer?"),
        (["sweep=default"], "list values, KEY=A,B,C, or name another: sweep=FILE.yaml"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(words: list[str], message: str) -> None:
    code = "import sys; from commands import *; code = main(COMMANDS, '', sys.argv[1:]); "
    code += "print(code, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, *SWEEP, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert message in done.stderr and len(done.stderr.splitlines()) <= 3
    assert done.stdout == "2 False\n"
    assert not Path("models").exists()


@pytest.mark.slow
def test_a_study_goes_on_with_its_own_search_space_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05"]) == 0
    capsys.readouterr()
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.06", "--resume"]) == 2
    assert "was begun with search space: optimizer.lr" in capsys.readouterr().err
    assert main(COMMANDS, "", [*SWEEP, "optimizer.lr=0.001,0.05", "training.epochs=3", "--resume"]) == 2
    assert "was begun with training.epochs 2, and not 3" in capsys.readouterr().err


# -- processes that end, and several at once -----------------------------------------------------------------------


def started(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "commands.py"), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def num_epochs(run: str) -> int:
    file = Path("models/few") / run / "history.csv"
    return len(list(csv.DictReader(file.open()))) if file.is_file() else 0


def attempts() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="few", storage="sqlite:///models/few/study.db").get_trials()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_loses_no_trial_and_goes_on_within_it() -> None:
    words = [*LONG, "optimizer.lr=0.001,0.002,0.003"]
    killed = started(*words)
    wait_for(lambda: num_epochs("trial-0001") >= 3)
    killed.kill()
    killed.communicate()
    before = num_epochs("trial-0001")
    assert before < 25
    resumed = started(*words, "--resume")
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert states() == [("complete", 1), ("complete", 2), ("complete", 1)]
    assert f"epoch {before + 2}/25" in err and "epoch 1/25" in err.partition("trial-0002")[2]
    assert "epoch 1/25" not in err.partition("trial-0002")[0]
    assert [num_epochs(f"trial-000{number}") for number in range(3)] == [25] * 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_sweep_says_how_it_goes_on_and_does() -> None:
    words = [*LONG, "optimizer.lr=0.001,0.002"]
    stopped = started(*words)
    wait_for(lambda: num_epochs("trial-0000") >= 3)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 130
    assert "stopped by Ctrl-C in trial-0000; its training is saved and goes on with: " in err
    line = err.splitlines()[-1].partition("commands.py ")[2].split()
    resumed = started(*line)
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert states() == [("complete", 2), ("complete", 1)]
    assert "epoch 1/25" not in err.partition("trial-0001")[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_share_a_study() -> None:
    words = [*LONG, "optimizer.lr=range(1,9)", "optimizer.weight_decay=0.0"]
    first = started(*words)
    wait_for(lambda: num_epochs("trial-0000") >= 1)
    second = started(*words, "--resume")
    for process in (first, second):
        _, err = process.communicate()
        assert process.returncode in (0, 3), err
    tried = attempts()
    assert sorted(trial.user_attrs["root"] for trial in tried) == list(range(8))
    owners = {trial.user_attrs["owner"]["pid"] for trial in tried}
    assert owners == {first.pid, second.pid}
    assert {trial["state"] for trial in results()["trials"]} <= {"complete", "failed"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_are_children_of_the_study_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    words = [word for word in SWEEP if word != "tracking=none"]
    assert main(COMMANDS, "", [*words, "optimizer.lr=0.001,0.05", "tracking.system_metrics=false"]) == 0
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("cifar10")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"few", "trial-0000", "trial-0001"}
    parent = runs.pop("few")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.data.tags["sweep.state"] for run in runs.values()} == {"complete"}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    assert parent.data.metrics["best/val/loss"] == results()["best"]["score"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "sweep")}
    assert files == {"sweep/report.html", "sweep/results.json", "sweep/trials.csv"}
