"""Cut off anywhere, a resumed run ends bitwise where an uninterrupted one ends."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cifar10.model
from cifar10.config.compose import load_config
from cifar10.system.signals import Stopped
from cifar10.train import train

SMALL = [
    "experiment=demo",
    "model.width=4",
    "model.dropout=0.3",
    "augmentation=strong",
    "data_loading.image_size=16",
    "data_loading.train_size=100",
    "data_loading.validation_size=20",
    "data_loading.test_size=20",
    "training.epochs=3",
    "training.batch_size=20",
    "training.monitor=null",  # the last weights are the best: what is compared has been through every step
    "training.save_every_seconds=null",
    "tracking=none",
]
STEPS_PER_EPOCH = 5
STEPWISE, ONE_STEP, WHOLE_EPOCH = 0, 1e-9, 60
"""Seconds of a chunk: Lightning takes every step, or a chunk has one, or all of an epoch."""
COMMANDS = Path(__file__).parents[2] / "commands.py"


def facts_of(name: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


def losses_of(name: str) -> list[tuple[str, str, str]]:
    with Path(f"models/{name}/history.csv").open() as file:
        return [(row["train/loss"], row["train/accuracy"], row["val/loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that holds an uninterrupted run, `whole`; the tests here work in it."""
    folder, before = tmp_path_factory.mktemp("resume"), Path.cwd()
    os.chdir(folder)
    torch.set_num_threads(1)
    train(load_config([*SMALL, "run_name=whole"]))
    yield folder
    os.chdir(before)


def send_signal_at(step: int, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run receive a signal while it computes the given step."""
    compute_loss = cifar10.model.Classifier._loss

    def signal_and_compute(self: Any, batch: Any, number: int) -> Any:
        if self.global_step == step:
            os.kill(os.getpid(), sent)
        return compute_loss(self, batch, number)

    monkeypatch.setattr(cifar10.model.Classifier, "_loss", signal_and_compute)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [STEPWISE, ONE_STEP, WHOLE_EPOCH])
@pytest.mark.parametrize("step", [0, 2, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 3])
def test_interrupted_within_and_between_epochs_the_end_is_the_same(
    step: int, chunk_seconds: float, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cut{step}-{chunk_seconds}"
    with monkeypatch.context() as patch:
        send_signal_at(step, signal.SIGTERM, patch)
        with pytest.raises(Stopped, match="and saved at") as stop:
            train(load_config([*SMALL, f"run_name={name}", f"training.chunk_seconds={chunk_seconds}"]))
    assert stop.value.code == 143
    assert not Path(f"models/{name}/scores.json").exists()
    train(load_config(SMALL), resume=name)
    assert facts_of(name)["weights_digest"] == facts_of("whole")["weights_digest"]
    assert losses_of(name) == losses_of("whole")


def test_a_step_is_averaged_before_it_is_saved(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send_signal_at(2, signal.SIGTERM, monkeypatch)
    with pytest.raises(Stopped):
        train(load_config([*SMALL, "training.ema_decay=0.9", "run_name=averaged"]))
    saved = torch.load("models/averaged/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert saved["averaging_state"]["n_averaged"] == 3
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(saved["state_dict"], saved["current_model_state"])


@pytest.mark.slow
def test_without_the_optimizers_state_the_end_differs(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: it does when one piece of the state is lost."""
    with monkeypatch.context() as patch:
        send_signal_at(7, signal.SIGTERM, patch)
        with pytest.raises(Stopped, match="and saved at"):
            train(load_config([*SMALL, "run_name=lossy"]))
    raw = torch.load("models/lossy/last.ckpt", weights_only=True)
    for state in raw["optimizer_states"][0]["state"].values():
        state["exp_avg"].zero_()
    torch.save(raw, "models/lossy/last.ckpt")
    train(load_config(SMALL), resume="lossy")
    assert facts_of("lossy")["weights_digest"] != facts_of("whole")["weights_digest"]


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(COMMANDS), "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_sets_the_exit_code(
    number: signal.Signals, code: int, reference: Path
) -> None:
    name = f"stopped{code}"
    process = start(*SMALL, "training.epochs=40000", "training.save_every_seconds=0.05", f"run_name={name}")
    wait_for(Path(f"models/{name}/last.ckpt"), process)
    process.send_signal(number)
    out, messages = process.communicate(timeout=120)  # 500 epochs would take longer
    assert process.returncode == code
    assert f"; resume with: {shlex.join([sys.executable, str(COMMANDS)])} train --resume={name}\n" in messages
    assert out == "" and "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_make_one_run_and_count_every_test_image_once(reference: Path) -> None:
    process = start(*SMALL, "data_loading.test_size=31", "training.devices=2", "run_name=pair")
    out, messages = process.communicate()
    assert process.returncode == 0, messages
    assert out.count("test accuracy") == 1
    facts = facts_of("pair")
    assert (float(facts["test/accuracy"]) * 31) == pytest.approx(round(float(facts["test/accuracy"]) * 31), abs=1e-6)
    assert len([folder for folder in Path("models").iterdir() if "pair" in folder.name]) == 1
