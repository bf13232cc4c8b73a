"""A comparison belongs to its settings, shows itself while it trains, and goes on where it stopped."""

import io
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import cifar10.model
from cifar10.compare_pooling import compare_pooling
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.schema import Config
from cifar10.errors import UsageError
from cifar10.inference.predictor import Predictor
from cifar10.kernels import DirectGradients, bfloat16_units
from cifar10.laboratory.folder import Laboratory, open_laboratory
from cifar10.laboratory.progress import LiveCurves
from cifar10.laboratory.reporting import SendEpochs
from cifar10.laboratory.workers import Failed, Finished, Trained, _taken, _Worker, train_side_by_side
from cifar10.model import Classifier
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.record import RunRecord
from cifar10.train import RunOptions, train
from cifar10.types import QUARTILES, Metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("experiment=pooling", "data_loading=shapes", "data_loading.train_size=80", "data_loading.validation_size=40"),
    *("data_loading.test_size=40", "training.batch_size=40", "training.epochs=2", "pooling.seeds=[0]"),
    *("pooling.redraw_every=1", "~pooling.ways.average", "run_name=small", "tracking=none"),
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(*words: str) -> Config:
    return load_config([*TINY, *words])


def opened(*words: str) -> Laboratory:
    laboratory = open_laboratory(config(*words), must_exist=False)
    laboratory.claim.release()
    return laboratory


def epoch(number: int) -> Metrics:
    names = [f"{split}/{name}" for split in ("train", "val") for name in ("loss", "accuracy")]
    return {"epoch": number, **{f"{name}_{percent}": 0.5 for name in names for percent in QUARTILES}}


def test_a_run_is_an_ordinary_run_of_one_way_and_seed() -> None:
    laboratory = opened("pooling.seeds=[4,2]")
    assert list(laboratory.runs) == ["stride-4", "max-4", "stride-2", "max-2"]
    run = laboratory.config_of("stride-2")
    assert run.model.target.endswith(".StrideCNN") and run.model.arguments == {"widths": [32, 32, 64]}
    assert (run.seed, run.run_name, run.models_dir) == (2, "stride-2", "models/small/laboratory")
    assert run.pooling is None and run.tracking.backend == "none"
    assert run.training == laboratory.config.training


def test_other_settings_are_refused_and_more_seeds_are_not() -> None:
    opened()
    another_way = "pooling.ways.again=cifar10.networks.pooling.max_pool.MaxPoolCNN"
    opened("pooling.seeds=[0,1]", "training.epochs=3", another_way)
    with pytest.raises(UsageError, match=r"was begun with optimizer.lr=0.001, not 0.01; .*run_name=NAME"):
        opened("optimizer.lr=0.01")
    with pytest.raises(UsageError, match=r"pooling.ways.max=cifar10.networks.pooling.max_pool.MaxPoolCNN"):
        opened("pooling.ways.max=cifar10.networks.pooling.stride.StrideCNN")


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no comparison in models/small to resume; begin it without --resume"):
        open_laboratory(config(), must_exist=True)
    (tmp_path / "models/small").mkdir(parents=True)
    (tmp_path / "models/small/best.ckpt").touch()
    with pytest.raises(UsageError, match="models/small holds a run"):
        open_laboratory(config(), must_exist=False)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pooling=null", "add experiment=pooling"),
        ("run_name=null", "needs a name"),
        ("training.batch_quartiles=false", "training.batch_quartiles=false"),
        ("training.devices=2", "set pooling.workers instead"),
        ("weights=best", "a comparison trains from random weights"),
        ("data_loading.validation_size=0", "hold some out"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare_pooling(config(word))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pooling.seeds=[1,1]", "pooling.seeds: each seed must occur once"),
        ("pooling.ways.max=cifar10.networks.pooling.max_pool.Max", "pooling.ways.max._target_: .* has no Max; did you"),
        ("pooling.ways.max=torch.nn.Linear", "pooling.ways.max._target_: torch.nn.Linear may not be used here"),
        ("model.widths=[1,2]", "widths"),
        ("~pooling.ways.max", "pooling.ways"),
    ],
)
def test_mistakes_in_the_settings_are_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(word)


def test_a_worker_prefers_networks_that_it_has_compiled_if_their_turn_is_near(tmp_path: Path) -> None:
    laboratory = opened(
        "pooling.seeds=[0,1]", "+pooling.ways.average=cifar10.networks.pooling.average_pool.AveragePoolCNN"
    )
    waiting = {name: laboratory.config_of(name) for name in laboratory.runs}
    workers = [_Worker(tmp_path / "log", None) for _ in range(2)]
    turns = []
    for worker in (*workers, *workers, *workers):
        name, config = _taken(waiting, worker, num_workers=2)
        worker.networks.add(config.model.target)
        turns.append(name)
    assert turns == ["stride-0", "max-0", "stride-1", "max-1", "average-0", "average-1"] and not waiting


def test_epochs_are_handed_over_once_each() -> None:
    sent: list[int] = []
    classifier: Any = Classifier.__new__(Classifier)
    torch.nn.Module.__init__(classifier)
    classifier.history = [epoch(0), epoch(1)]
    sender = SendEpochs(lambda epochs: sent.extend(int(each["epoch"]) for each in epochs), every_seconds=0)
    trainer: Any = SimpleNamespace()
    sender.on_train_epoch_start(trainer, classifier)
    sender.on_train_epoch_start(trainer, classifier)
    classifier.history = [*classifier.history, epoch(2)]
    sender.on_train_end(trainer, classifier)
    assert sent == [0, 1, 2]


def test_the_picture_is_drawn_while_it_trains() -> None:
    laboratory = opened("pooling.seeds=[0,1]")
    shown: list[bytes] = []
    curves = LiveCurves(laboratory, shown.append)
    assert not (laboratory.folder / "curves.png").exists()
    curves.take(Trained("max-0", [epoch(0)]))
    assert (laboratory.folder / "curves.png").read_bytes() == shown[0]
    assert Image.open(io.BytesIO(shown[0])).size[0] > 1000
    curves.take(Trained("max-0", [epoch(1)]))  # at once: drawing again would take more than a tenth of the time
    assert len(shown) == 1
    curves.take(Trained("stride-1", [epoch(0), epoch(1)]))
    curves.take(Trained("stride-1", [epoch(1), epoch(2)]))  # resumed within epoch 1
    assert [each["epoch"] for each in curves.histories["stride-1"]] == [0, 1, 2]
    curves.take(Failed("max-1", "no memory"))
    curves.close()
    assert len(shown) == 2 and curves.failures == {"max-1": "no memory"}


@pytest.mark.skipif(not bfloat16_units.is_available(), reason="needs a CPU with bfloat16, and llvmlite")
def test_training_without_autograd_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, call = [], DirectGradients.__call__

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return call(*arguments)

    monkeypatch.setattr(DirectGradients, "__call__", counted)
    run = opened().config_of("max-0")
    train(run, options=RunOptions(is_drawn=False))
    assert len(calls) == 2 * 2  # epochs, steps
    assert not Path("models/small/laboratory/max-0/curves.png").exists()
    monkeypatch.setattr(cifar10.model, "direct_gradients", lambda network: None)
    train(run.model_copy(update={"run_name": "autograd"}), options=RunOptions(is_drawn=False))
    assert len(calls) == 2 * 2
    direct, autograd = (load_checkpoint(Path(run.models_dir, name, "best.ckpt")) for name in ("max-0", "autograd"))
    assert direct.weights_digest == autograd.weights_digest
    timeless = [[{**epoch, "seconds": 0.0} for epoch in each.history] for each in (direct, autograd)]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
def test_a_comparison_leaves_a_report_and_a_winner_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    results = compare_pooling(config("tracking.backend=mlflow"))
    out = capsys.readouterr().out
    assert [way.name for way in results.ways] == ["stride", "max"] and not results.failures
    assert all(sentence in out for sentence in results.verdict)
    folder = Path("models/small/laboratory")
    assert {"report.html", "results.json", "curves.png", "settings.yaml"} <= {path.name for path in folder.iterdir()}
    way, seed = results.winner
    winner = load_checkpoint(Path("models/small/best.ckpt"))
    assert winner.weights_digest == load_checkpoint(folder / f"{way.name}-{seed}" / "best.ckpt").weights_digest
    assert Predictor.from_checkpoint(Path("models/small/best.ckpt")).class_names == results.class_names
    assert Path("models/small/export/model.onnx").exists()
    assert all(Path("models/small", picture).exists() for picture in ("curves.png", "confusion.png"))
    parent = RunRecord.of(Path("models/small"))
    child = RunRecord.of(folder / "max-0")
    assert parent is not None and child is not None and parent.run_id is not None
    assert child.tags["mlflow.parentRunId"] == parent.run_id
    before = (folder / "max-0" / "last.ckpt").stat().st_mtime_ns
    again = compare_pooling(config(), resume=True)
    assert (folder / "max-0" / "last.ckpt").stat().st_mtime_ns == before
    assert again.verdict == results.verdict


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    good = opened("run_name=good").config_of("max-0")
    bad = good.model_copy(update={"run_name": "bad", "optimizer": good.optimizer.model_copy(update={"arguments": {}})})
    events = list(train_side_by_side({"bad": bad, "good": good}, 1, tmp_path))
    ends = [event for event in events if not isinstance(event, Trained)]
    assert isinstance(ends[0], Failed) and ends[0].name == "bad" and "lr" in ends[0].reason
    assert ends[1:] == [Finished("good")]


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = [*TINY[1:], "training.epochs=3000", "optimizer.lr=1e-5"]
    command = [sys.executable, str(ROOT / "commands.py"), "compare_pooling", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "models/small/laboratory"
    deadline = time.monotonic() + 100
    while not (folder / "max-0/last.ckpt").exists() or not (folder / "stride-0/last.ckpt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    advised = stderr.rpartition("the same command goes on: ")[2]
    assert shlex.split(advised)[-len(command) + 2 :] == command[2:]  # other settings would be refused
    known = {name: len(load_checkpoint(folder / name / "last.ckpt").history) for name in ("max-0", "stride-0")}
    assert all(known.values())
    events = train_side_by_side(
        {"max-0": open_laboratory(config("training.epochs=3000", "optimizer.lr=1e-5"), True).config_of("max-0")},
        1,
        tmp_path,
    )
    first = next(event for event in events if isinstance(event, Trained))
    events.close()
    assert len(first.epochs) >= known["max-0"]  # those before the resume are handed over as well
