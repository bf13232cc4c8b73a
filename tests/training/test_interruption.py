"""A signal at any moment of the command `train`: what is kept is told, and a resumed run ends where it would have."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import cifar10.model
import cifar10.train
import cifar10.training.fitting
from cifar10.config.compose import load_config
from cifar10.runs.mlflow_tracker import MLflowTracker
from cifar10.system import signals
from cifar10.system.signals import Stopped
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY

PROGRAM = Path(__file__).parents[2] / "commands.py"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield
    signals._received.clear()  # or later tests of this process would be told of a signal


def digest_of(name: str) -> str:
    return str(json.loads(Path(f"models/{name}/scores.json").read_text())["weights_digest"])


def send_before(owner: object, name: str, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    """Let the process receive a signal when `owner`'s function `name` is called for the first time."""
    function = getattr(owner, name)
    sent: list[int] = []

    def send_and_call(*arguments: Any, **named: Any) -> Any:
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, send_and_call)


def run(*words: str) -> int:
    from cifar10.cli.command_line import main

    tiny = [word for word in TINY if word.split("=")[0] not in {word.split("=")[0] for word in words}]
    return main(COMMANDS, "", ["train", *tiny, "run_name=cut", *words])


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1]


GO_ON = "resume with: python commands.py train --resume=cut"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "kept", "files"),
    [
        (cifar10.train, "build", "before training began; nothing was trained", None),
        (cifar10.training.fitting, "make_trainer", "before anything was saved; there is nothing to resume", set()),
        (cifar10.model.Classifier, "on_fit_start", "before anything was saved; there is nothing to resume", set()),
        (cifar10.model.Classifier, "_loss", f"and saved at models/cut/last.ckpt; {GO_ON}", {"last.ckpt"}),
        (cifar10.model.Classifier, "validation_step", f"and saved at models/cut/last.ckpt; {GO_ON}", {"last.ckpt"}),
        (cifar10.model.Classifier, "test_step", f"in the test, after training; {GO_ON}", {"last.ckpt", "best.ckpt"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_kept_is_told_whatever_is_interrupted(
    owner: object,
    name: str,
    kept: str,
    files: set[str] | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cifar10.train.save_figures", lambda *arguments: None)  # they take most of a tiny run's time
    with monkeypatch.context() as patch:
        send_before(owner, name, patch)
        assert run() == 143
    assert said(capfd) == f"stopped by SIGTERM {kept}"
    if files is None:
        assert not Path("models").exists()
        return
    assert files <= set(os.listdir("models/cut")) and "scores.json" not in os.listdir("models/cut")
    if files:
        train(load_config(TINY), resume="cut")
        train(load_config([*TINY, "run_name=whole"]))
        assert digest_of("cut") == digest_of("whole")


def test_a_signal_that_an_import_has_swallowed_ends_the_program_before_there_is_a_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def swallow(name: str) -> Any:
        if name != "train":
            raise AttributeError(name)
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        return train

    monkeypatch.delattr(cifar10.train, "train")
    monkeypatch.setattr(cifar10.train, "__getattr__", swallow, raising=False)
    assert run() == 130
    assert said(capfd) == "stopped by Ctrl-C before training began; nothing was trained"
    assert not Path("models").exists()


def test_after_the_last_step_the_end_of_training_is_saved_and_the_test_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    send_before(cifar10.model.Classifier, "on_train_epoch_end", monkeypatch)
    assert run("training.epochs=1") == 143
    assert said(capfd) == f"stopped by SIGTERM and saved at models/cut/last.ckpt; {GO_ON}"


def test_results_are_written_whole_before_a_signal_counts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        send_before(cifar10.train, "save_figures", patch)
        assert run() == 143
    expected = {
        "best.ckpt",
        "last.ckpt",
        "scores.json",
        "history.csv",
        "config.yaml",
        "curves.png",
        "confusion.png",
        "run.json",
        ".lock",
    }
    assert set(os.listdir("models/cut")) == expected


@pytest.mark.slow
def test_a_run_that_ended_before_its_figures_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `kill -9` in the second that they take: a resumed run tests again, and draws them."""

    def end(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("cifar10.train.save_figures", end)
        with pytest.raises(RuntimeError, match="killed"):
            run()
    assert not Path("models/cut/scores.json").exists()
    train(load_config(TINY), resume="cut")
    assert {"scores.json", "curves.png", "confusion.png"} <= set(os.listdir("models/cut"))


@pytest.mark.slow
def test_while_mlflow_has_its_last_words_the_run_is_complete(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trackers: list[MLflowTracker] = []

    def stop(tracker: MLflowTracker, status: str) -> None:
        trackers.append(tracker)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MLflowTracker, "finish", stop)
        assert run("tracking=mlflow", "tracking.system_metrics=false") == 143
    trackers[0].finish("FINISHED")  # or its thread would go on beside other tests
    assert said(capfd) == "stopped by SIGTERM while the record was closed; the run is complete in models/cut"
    assert Path("models/cut/scores.json").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_signals_of_schedulers_and_terminals_save_as_sigterm_does(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        send_before(cifar10.model.Classifier, "_loss", patch, number)
        assert run() == 128 + number
    assert Path("models/cut/last.ckpt").exists()


def test_a_second_signal_stops_without_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.system.signals._ECHO_SECONDS", 0.0)

    def send_twice(*_: object) -> None:
        for _number in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cifar10.model.Classifier, "_loss", send_twice)
    with pytest.raises(Stopped) as stop:
        train(load_config([*TINY, "run_name=cut"]))
    assert "and saved at" not in str(stop.value) and not Path("models/cut/last.ckpt").exists()


def test_training_works_in_another_thread_than_the_main_one() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=train, args=(load_config([*TINY, "run_name=thread"]),))
    thread.start()
    thread.join()
    train(load_config([*TINY, "run_name=whole"]))
    assert digest_of("thread") == digest_of("whole")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_works_without_stdout_and_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that a desktop or a service manager has started."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    train(load_config([*TINY, "run_name=silent"]))
    assert Path("models/silent/scores.json").exists()


# -- real processes ----------------------------------------------------------------------------------------------


def start(*words: str, before: tuple[str, ...] = (), log: Path) -> "subprocess.Popen[bytes]":
    """Start the real program, with SIGINT and SIGHUP as a shell in a terminal leaves them."""

    def ignore_nothing() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    long = ["training.epochs=40000", "training.save_every_seconds=0.05", "model.width=4", "run_name=long"]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*before, sys.executable, str(PROGRAM), "train", *TINY, *long, *words],
            stdout=file,
            stderr=file,
            preexec_fn=ignore_nothing,  # noqa: PLW1509 - no threads here
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_while_torch_is_imported_one_line_is_said(tmp_path: Path) -> None:
    for seconds in (0.0, 0.2, 0.5, 1.0):
        process = start(log=tmp_path / "log")
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(seconds)
        process.terminate()
        assert process.wait() == 143
        assert (tmp_path / "log").read_text().count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_terminal_that_closes_saves_and_under_nohup_training_goes_on(tmp_path: Path) -> None:
    process = start(log=tmp_path / "log")
    wait_for(Path("models/long/last.ckpt"), process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 129
    under_nohup = start("run_name=kept", before=("nohup",), log=tmp_path / "log2")
    wait_for(Path("models/kept/last.ckpt"), under_nohup)
    under_nohup.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert under_nohup.poll() is None
    under_nohup.terminate()
    assert under_nohup.wait(120) == 143


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_timeout_which_signals_twice_saves(tmp_path: Path) -> None:
    process = start(before=("timeout", "--preserve-status", "3600"), log=tmp_path / "log")
    wait_for(Path("models/long/last.ckpt"), process)
    process.terminate()  # it hands the signal on as it does when the time is up
    assert process.wait(120) == 143
    assert "and saved at models/long/last.ckpt" in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_when_the_first_of_two_processes_is_killed_the_second_ends_within_a_minute(tmp_path: Path) -> None:
    process = start("training.devices=2", log=tmp_path / "log")
    wait_for(Path("models/long/last.ckpt"), process)
    [second] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait(60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{second}").exists() and "Z" not in Path(f"/proc/{second}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_of_two_processes_stops_both_and_is_told_once(number: signal.Signals, tmp_path: Path) -> None:
    process = start("training.devices=2", log=tmp_path / "log")
    wait_for(Path("models/long/last.ckpt"), process)
    process.send_signal(number)
    assert process.wait(120) == 128 + number
    text = (tmp_path / "log").read_text()
    assert text.count("stopped by") == 1 and "Traceback" not in text
