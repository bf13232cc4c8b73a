"""In the first part of training only the head learns; what is frozen does not change by a bit."""

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from cifar10.config.compose import load_config
from cifar10.config.schema import Config
from cifar10.errors import UsageError
from cifar10.networks.heads import head_parameters
from cifar10.optimizers.standard import adamw
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.system.signals import Stopped
from cifar10.train import train
from tests.tiny_run import TINY
from tests.training.test_resume import send_signal_at

SMALL = [*TINY, "model=resnet18", "model.width=4", "training.epochs=4", "augmentation=none"]
"""Three steps an epoch, twelve in all; a network with batch normalisation."""


def config(folder: Path, *words: str) -> Config:
    return load_config([*SMALL, f"models_dir={folder}", "run_name=run", *words])


class Recorder(pl.Callback):
    """Keeps a copy of all weights and statistics after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.states.append({name: x.detach().clone() for name, x in pl_module.network.state_dict().items()})


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [0.0, 0.5])
def test_only_the_head_changes_until_the_fraction_of_steps_and_all_after_it(
    tmp_path: Path, chunk_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    make_trainer = pl.Trainer.__init__

    def recording(self: pl.Trainer, *arguments: Any, **options: Any) -> None:
        options["callbacks"] = [recorder, *options["callbacks"]]
        make_trainer(self, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "__init__", recording)
    train(config(tmp_path, "training.freeze_until=0.5", f"training.chunk_seconds={chunk_seconds}"))
    network = load_checkpoint(tmp_path / "run" / "best.ckpt").network()
    start, first, second, third, _ = recorder.states
    assert changed(start, first) == changed(start, second) == set(head_parameters(network, 10))
    learnable = {name for name, _ in network.named_parameters()}
    statistics = {name for name in start if "running" in name or "num_batches" in name}
    assert learnable | statistics <= changed(second, third)


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 8])
def test_a_run_that_is_interrupted_frozen_or_not_resumes_bitwise(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("training.freeze_until=0.5",)
    train(config(tmp_path / "whole", *words))

    with monkeypatch.context() as patch:
        send_signal_at(step, signal.SIGTERM, patch)
        with pytest.raises(Stopped):
            train(config(tmp_path / "cut", *words))
    train(config(tmp_path / "cut"), resume="run")
    whole, cut = (load_checkpoint(tmp_path / name / "run" / "last.ckpt") for name in ("whole", "cut"))
    assert whole.weights_digest == cut.weights_digest


def test_all_but_the_head_learns_at_its_own_rate() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    groups = adamw(network, lr=0.1, weight_decay=0.5, body_lr=0.01).param_groups
    named = {id(parameter): name for name, parameter in network.named_parameters()}
    rates = {named[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rates == {"0.weight": (0.01, 0.5), "0.bias": (0.01, 0.0), "2.weight": (0.1, 0.5), "2.bias": (0.1, 0.0)}


def test_freezing_needs_one_process(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"freeze_until needs one process; set training.devices=1"):
        config(tmp_path, "training.freeze_until=0.5", "training.devices=2")
