"""Whole steps as CUDA graphs learn what the same steps learn one operation at a time."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cifar10.devices import has_gpu_kernels, prepare_network
from cifar10.model import Classifier, Recipe
from cifar10.networks.speed import SpeedNet
from cifar10.optimizers.muon import muon
from cifar10.optimizers.schedules import Linear
from cifar10.optimizers.standard import adamw
from cifar10.training.batches import Batch
from cifar10.training.captured_step import CapturedStep, can_capture
from cifar10.training.freezing import Freezing
from cifar10.training.hard_example_mining import AllExamples, HardExampleMining
from cifar10.training.step import TrainingStep, apply_gradients

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
STAGES: list[Any] = [SimpleNamespace(until=0.5, scale=0.75)]


def some_batch(device: str = "cpu", num: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images.to(device), (images.float().mean(dim=(1, 2, 3)) > 127.5).long().to(device)


def speed_network() -> SpeedNet:
    torch.manual_seed(0)
    network = SpeedNet(10, 32, [8, 16, 16])
    network.calibrate(some_batch()[0])
    return network


def bf16() -> AbstractContextManager[None]:
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def test_only_steps_that_are_always_the_same_can_be_captured() -> None:
    network = speed_network()
    step = TrainingStep(network, AllExamples(), STAGES, 0.1)
    selection: Any = HardExampleMining(10, 32)
    mining = dataclasses.replace(step, selection=selection)
    frozen = dataclasses.replace(step, freezing=Freezing(network, 10, until=0.5))
    optimizer = muon(network, lr=0.1)
    assert can_capture(step, optimizer, micro_batches=1)
    assert not can_capture(step, optimizer, micro_batches=2)
    assert not can_capture(mining, optimizer, micro_batches=1)
    assert not can_capture(frozen, optimizer, micro_batches=1)
    assert not can_capture(step, adamw(network, lr=0.1), micro_batches=1)


class TestOnGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("with_kernels", [True, False])
    def test_captured_steps_learn_what_eager_steps_learn(self, with_kernels: bool) -> None:
        plain = prepare_network(
            speed_network().cuda(), channels_last=True, with_kernels=True, with_programs=with_kernels
        )
        assert has_gpu_kernels(plain) == with_kernels
        captured = copy.deepcopy(plain)
        batch = some_batch("cuda")
        losses = [
            [float(loss) for loss in steps(network, batch)] for network, steps in ((plain, eager), (captured, graphs))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        for key, value in plain.state_dict().items():
            difference = captured.state_dict()[key] - value
            assert float(difference.norm()) < 0.05 * float(value.norm()) + 1e-3, key

    def test_lightning_trains_by_graphs_and_counts_every_step(self) -> None:
        scores = {}
        for compile_ in (False, "graphs"):
            network = prepare_network(speed_network(), channels_last=True, with_kernels=True, with_programs=True)
            classifier = make_classifier(network, compile_)
            trainer = make_trainer()
            chunk = [some_batch("cuda")] * 6
            trainer.fit(classifier, OneChunk(chunk))
            assert (classifier._captured_step is not None) == (compile_ == "graphs")
            assert trainer.global_step == 6
            scores[compile_] = classifier.history[-1]
        assert scores["graphs"]["train/loss"] == pytest.approx(scores[False]["train/loss"], rel=0.02)
        assert scores["graphs"]["lr"] == pytest.approx(scores[False]["lr"])


def eager(network: nn.Module, batch: Batch) -> list[Tensor]:
    optimizer, step = muon(network, lr=0.1), TrainingStep(network, AllExamples(), STAGES, 0.1)
    losses = []
    for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        with bf16():
            loss = step.forward(batch, 0, progress).loss
        loss.backward()
        apply_gradients(optimizer)
        losses.append(loss.detach())
    return losses


def graphs(network: nn.Module, batch: Batch) -> list[Tensor]:
    optimizer, step = muon(network, lr=0.1), TrainingStep(network, AllExamples(), STAGES, 0.1)
    captured = CapturedStep(step, network, optimizer, bf16)
    return [captured(batch, progress).loss.clone() for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]


def make_classifier(network: nn.Module, compile_: bool | str) -> Classifier:
    settings = SimpleNamespace(
        compile=compile_, chunked=True, chunk_seconds=9.0, freeze_until=0.0, resizing=STAGES, label_smoothing=0.1,
        accumulate=1, gradient_clip=None, epochs=1,
    )  # fmt: skip

    def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
        return muon(network, lr=0.1)

    recipe = Recipe(settings, 0, 6, AllExamples(), make_optimizer, Linear())  # type: ignore[arg-type]
    evaluation: Any = SimpleNamespace(tta="none", tta_confidence=0.7)
    return Classifier(network, evaluation, {"class_names": list("abcdefghij")}, recipe=recipe)


def make_trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu", devices=1, precision="bf16-mixed", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, benchmark=True,
    )  # fmt: skip


class OneChunk:
    """A data loader whose only batch is an iterator over batches."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield iter(self.batches)
