"""Optimizers and schedules: who is updated how, and when the rate is what."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import SpeedNet
from cifar10.optimizers.muon import muon, orthogonalize
from cifar10.optimizers.roles import roles_of
from cifar10.optimizers.schedules import Constant, Cosine, Linear, OneCycle, Schedule
from cifar10.optimizers.standard import adam, adamw, sgd

SCHEDULES: list[Schedule] = [Constant(0.1), Linear(0.1, 0.05), Cosine(0.1, 0.05), OneCycle(0.3, 0.04, 0.05)]


def test_every_learnable_parameter_has_exactly_one_role() -> None:
    network = SpeedNet(10, 32, widths=[8, 8, 8])
    roles = roles_of(network)
    listed = [*roles.filters, *roles.head, *roles.vectors]
    assert len({id(p) for p in listed}) == len(listed)
    assert {id(p) for p in listed} == {id(p) for p in network.parameters() if p.requires_grad}
    assert [p.shape for p in roles.head] == [network.head.weight.shape]


def test_orthogonalised_matrices_keep_directions_and_level_their_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((16, 72), (72, 16)):
        matrix = torch.randn(*shape, generator=generator)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        levelled = u.T @ orthogonalize(matrix, rounds=5) @ v.T
        values = levelled.diag()
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
        assert float((levelled - values.diag()).abs().max()) < 1e-4


def test_a_muon_step_has_the_spectral_norm_of_its_rate() -> None:
    torch.manual_seed(0)
    network = SpeedNet(10, 32, widths=[8, 16, 16])
    optimizer = muon(network, lr=0.1, normalize_filters=False)
    filters = roles_of(network).filters
    before = [p.detach().clone() for p in filters]
    network(torch.randint(0, 256, (8, 3, 32, 32))).square().mean().backward()
    optimizer.step()
    for old, new in zip(before, filters, strict=True):
        norm = torch.linalg.matrix_norm((new - old).detach().flatten(1), ord=2)
        assert 0.05 < float(norm) < 0.13


def test_normalised_filters_have_norm_one_on_average() -> None:
    network = SpeedNet(10, 32, widths=[8, 16, 16])
    optimizer = muon(network, lr=1e-9)
    network(torch.randint(0, 256, (8, 3, 32, 32))).square().mean().backward()
    optimizer.step()
    for filters in roles_of(network).filters:
        assert float(filters.norm()) == pytest.approx(math.sqrt(len(filters)), rel=1e-4)


@pytest.mark.parametrize("make", [sgd, adam, adamw])
def test_vectors_are_not_decayed(make: object) -> None:
    optimizer = make(SimpleCNN(10, 32, width=4), lr=0.1)  # type: ignore[operator]
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            assert all(parameter.ndim >= 2 for parameter in group["params"])


@pytest.mark.parametrize("make", [sgd, adam, adamw, muon])
def test_loss_falls_on_a_small_problem(make: object) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    options = {"head_lr": 0.1, "vector_lr": 0.01, "weight_decay": 0.0} if make is muon else {}
    optimizer = make(network, lr=0.02, **options)  # type: ignore[operator]
    images, labels = torch.randn(32, 3, 2, 2), torch.arange(32) % 4
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_schedules_stay_in_range_and_reach_one(schedule: Schedule) -> None:
    factors = [schedule(step / 1000) for step in range(1001)]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1.0, abs=1e-2)
    assert max(abs(a - b) for a, b in pairwise(factors)) < 0.02  # no jumps


def test_schedules_end_where_they_say() -> None:
    assert Linear(0.1, 0.05)(1.0) == pytest.approx(0.05)
    assert Cosine(0.1, 0.05)(1.0) == pytest.approx(0.05)
    assert OneCycle(0.3, 0.04, 0.01)(1.0) == pytest.approx(0.01)
    assert OneCycle(0.3, 0.04, 0.01)(0.0) == pytest.approx(0.04)
    assert Constant(0.0)(0.0) == Constant(0.0)(1.0) == 1.0
