"""Whole steps as CUDA graphs learn what the same steps learn one operation at a time."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from cifar10.config.compose import load_config
from cifar10.devices import has_gpu_kernels, prepare_network
from cifar10.model import Classifier, Recipe
from cifar10.networks.speed import SpeedNet
from cifar10.optimizers.muon import muon
from cifar10.optimizers.schedules import Linear
from cifar10.optimizers.standard import adamw
from cifar10.training.batches import Batch
from cifar10.training.captured_step import CapturedStep, can_capture
from cifar10.training.freezing import Freezing
from cifar10.training.hard_example_mining import AllExamples, ExampleSelection, HardExampleMining
from cifar10.training.step import TrainingStep, make_scheduler, update

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
STAGES: list[Any] = [SimpleNamespace(until=0.5, scale=0.75)]
NUM_STEPS = 6
# Low rates: with those of a real run, six steps on 64 images amplify the rounding to bfloat16 to any difference.
# Measured on a CPU with and without that rounding: the losses differ by at most 0.2 %, with selection 2 %, and the
# weights by 0.07, with selection 0.16 and 0.45 (of the small network). A step left out changes a loss by 8 %, a rate
# that does not fall by 11 %; a small network that is trained in the wrong steps differs by 1.3, at a wrong rate by 0.5.
RATES = partial(muon, lr=0.02, head_lr=0.002, vector_lr=0.0001)


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


def hard_examples(make_optimizer: Any, device: str = "cpu") -> HardExampleMining:
    torch.manual_seed(1)
    selection = HardExampleMining(10, 32, every=3, widths=[8, 8, 8])
    prepare_network(selection.network, channels_last=True, with_kernels=True, with_programs=True)
    selection.network.calibrate(some_batch()[0])
    selection.begin(torch.device(device), make_optimizer, Linear())
    return selection


def test_only_steps_that_are_always_the_same_can_be_captured() -> None:
    network = speed_network()
    step = TrainingStep(network, AllExamples(), STAGES, 0.1)
    mining = dataclasses.replace(step, selection=hard_examples(partial(muon, lr=0.1)))
    other_rates = dataclasses.replace(step, selection=hard_examples(partial(adamw, lr=0.1)))
    frozen = dataclasses.replace(step, freezing=Freezing(network, 10, until=0.5))
    optimizer = muon(network, lr=0.1)
    assert can_capture(step, optimizer, micro_batches=1)
    assert not can_capture(step, optimizer, micro_batches=2)
    assert can_capture(mining, optimizer, micro_batches=1)
    assert not can_capture(other_rates, optimizer, micro_batches=1)
    assert not can_capture(frozen, optimizer, micro_batches=1)
    assert not can_capture(step, adamw(network, lr=0.1), micro_batches=1)


class TestOnGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("with_kernels", [True, False])
    def test_captured_steps_learn_what_eager_steps_learn(self, with_kernels: bool) -> None:
        start = prepare_network(
            speed_network().cuda(), channels_last=True, with_kernels=True, with_programs=with_kernels
        )
        assert has_gpu_kernels(start) == with_kernels
        plain, captured, batch = copy.deepcopy(start), copy.deepcopy(start), some_batch("cuda")
        losses = [eager(plain, batch, AllExamples()), graphs(captured, batch, AllExamples())]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
        assert difference(captured, plain, start) < 0.2
        assert_close(captured, plain)

    def test_captured_steps_choose_and_learn_from_the_same_hard_examples(self) -> None:
        start = prepare_network(speed_network().cuda(), channels_last=True, with_kernels=True, with_programs=True)
        plain, captured, batch = copy.deepcopy(start), copy.deepcopy(start), some_batch("cuda")
        first, second, unchanged = (hard_examples(RATES, "cuda") for _ in range(3))
        losses = [eager(plain, batch, first), graphs(captured, batch, second)]
        assert losses[0] == pytest.approx(losses[1], rel=0.03)
        assert difference(captured, plain, start) < 0.2
        assert_close(captured, plain)
        assert difference(second.network, first.network, unchanged.network) < 0.5
        assert_close(second.network, first.network)

    def test_lightning_trains_by_graphs_as_without(self) -> None:
        scores = {}
        for compile_ in (False, "graphs"):
            network = prepare_network(speed_network(), channels_last=True, with_kernels=True, with_programs=True)
            classifier = make_classifier(network, compile_)
            trainer = make_trainer("gpu")
            trainer.fit(classifier, OneChunk([some_batch("cuda")] * NUM_STEPS))
            assert (classifier._captured_step is not None) == (compile_ == "graphs")
            assert trainer.global_step == NUM_STEPS
            scores[compile_] = classifier.history[-1]
        assert scores["graphs"]["train/loss"] == pytest.approx(scores[False]["train/loss"], rel=0.02)
        assert scores["graphs"]["lr"] == pytest.approx(scores[False]["lr"])


def test_lightning_counts_every_step_of_a_chunk() -> None:
    classifier, trainer = make_classifier(speed_network(), compile_=False), make_trainer("cpu")
    trainer.fit(classifier, OneChunk([some_batch()] * NUM_STEPS))
    assert trainer.global_step == NUM_STEPS
    assert 0 < classifier.history[-1]["train/loss"] < math.log(10)


def eager(network: nn.Module, batch: Batch, selection: ExampleSelection) -> list[float]:
    optimizer, step = RATES(network), TrainingStep(network, selection, STAGES, 0.1)
    scheduler, losses = make_scheduler(optimizer, Linear(), NUM_STEPS), []
    for number in range(NUM_STEPS):
        step.set_progress(number / NUM_STEPS)
        with bf16():
            loss = step.forward(batch, number, number / NUM_STEPS).loss
        loss.backward()
        update(optimizer, scheduler)
        losses.append(loss.item())
    return losses


def graphs(network: nn.Module, batch: Batch, selection: ExampleSelection) -> list[float]:
    optimizer, step = RATES(network), TrainingStep(network, selection, STAGES, 0.1)
    scheduler, losses = make_scheduler(optimizer, Linear(), NUM_STEPS), []
    captured = CapturedStep(step, network, optimizer, bf16)
    for number in range(NUM_STEPS):
        losses.append(captured(batch, number, number / NUM_STEPS).loss.item())
        scheduler.step()
    return losses


def assert_close(network: nn.Module, other: nn.Module) -> None:
    """Compare every parameter and every running statistic."""
    for key, value in other.state_dict().items():
        difference = network.state_dict()[key] - value
        assert float(difference.norm()) < 0.05 * float(value.norm()) + 1e-3, key


def difference(network: nn.Module, other: nn.Module, start: nn.Module) -> float:
    """Return the difference of two networks that were trained from `start`, relative to how far `other` went."""
    weights = [
        torch.cat([parameter.detach().flatten() for parameter in each.parameters()]) for each in (network, other, start)
    ]
    return float((weights[0] - weights[1]).norm() / (weights[1] - weights[2]).norm())


def make_classifier(network: nn.Module, compile_: bool | str) -> Classifier:
    words = [
        f"training.compile={compile_}",
        "training.resizing=[{until:0.5,scale:0.75}]",
        "training.label_smoothing=0.1",
    ]
    words += ["data_loading=shapes", "training.monitor=null", "evaluation.tta=none", "training.chunk_seconds=60"]
    config = load_config(words)
    recipe = Recipe(config.training, 0, NUM_STEPS, AllExamples(), RATES, Linear())
    return Classifier(network, config.evaluation, {"class_names": list("abcdefghij")}, recipe=recipe)


def make_trainer(accelerator: str) -> pl.Trainer:
    precision: Any = "bf16-mixed" if accelerator == "gpu" else "32-true"
    return pl.Trainer(
        accelerator=accelerator, devices=1, precision=precision, max_epochs=1, logger=False, benchmark=True,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


class OneChunk:
    """A data loader whose only batch is an iterator over batches."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield iter(self.batches)
