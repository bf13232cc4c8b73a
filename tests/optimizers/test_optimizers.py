"""Optimizers and schedules: who is updated how, and when the rate is what."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import SpeedNet
from cifar10.optimizers import muon as muon_module
from cifar10.optimizers.direct_adam import DirectAdam
from cifar10.optimizers.muon import Muon, muon, orthogonalize
from cifar10.optimizers.param_groups import param_groups_of
from cifar10.optimizers.schedules import Constant, Cosine, Linear, OneCycle, Schedule
from cifar10.optimizers.standard import adam, adamw, sgd

SCHEDULES: list[Schedule] = [Constant(0.1), Linear(0.1, 0.05), Cosine(0.1, 0.05), OneCycle(0.3, 0.04, 0.05)]


def test_every_learnable_parameter_has_exactly_one_role() -> None:
    network = SpeedNet(10, 32, widths=[8, 8, 8])
    roles = param_groups_of(network)
    listed = [*roles.filters, *roles.head, *roles.vectors]
    assert len({id(p) for p in listed}) == len(listed)
    assert {id(p) for p in listed} == {id(p) for p in network.parameters() if p.requires_grad}
    assert [p.shape for p in roles.head] == [network.head.weight.shape]


def test_orthogonalised_matrices_keep_directions_and_level_their_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((16, 72), (72, 16)):
        matrix = torch.randn(*shape, generator=generator)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        levelled = u.T @ orthogonalize(matrix[None], rounds=5)[0] @ v.T
        values = levelled.diag()
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
        assert float((levelled - values.diag()).abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(3, 16, 72), (2, 8, 200), (1, 20, 40)])
@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_in_terms_of_the_gram_matrix_come_to_the_same(
    shape: tuple[int, int, int], rank: int, rounds: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    count, rows, columns = shape
    matrices = torch.randn(count, rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    matrices = matrices + 1e-3 * torch.randn(shape, generator=generator)  # some directions hardly matter
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    exact = muon_module._by_rounds(matrices.double(), rounds)
    torch.testing.assert_close(muon_module._by_gram(matrices.double(), rounds), exact, rtol=1e-9, atol=1e-9)
    own, plain = ((way(matrices, rounds) - exact).abs().max() for way in (muon_module._by_gram, muon_module._by_rounds))
    assert own < 4 * plain + 1e-6


@pytest.mark.parametrize(
    ("shape", "way"), [((1, 8, 16), "_by_gram"), ((1, 16, 8), "_by_gram"), ((1, 8, 15), "_by_rounds")]
)
def test_long_matrices_are_orthogonalised_by_their_gram_matrix(
    shape: tuple[int, int, int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    for name in ("_by_gram", "_by_rounds"):

        def note(x: Tensor, rounds: int, name: str = name) -> Tensor:
            taken.append(name)
            return x

        monkeypatch.setattr(muon_module, name, note)
    orthogonalize(torch.ones(shape))
    orthogonalize(torch.ones(shape).bfloat16())  # too coarse for the squares of small numbers
    assert taken == [way, "_by_rounds"]


def with_gradients(network: nn.Module) -> nn.Module:
    """Give every learnable parameter of `network` the same gradient each time, in its own layout."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    return network


def learnt(network: nn.Module, steps: int = 3, tensor_rate: bool = False) -> list[Tensor]:
    """Return the parameters after some steps of Muon."""
    optimizer = muon(network, lr=0.1)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"]) if tensor_rate else group["lr"]
    for _ in range(steps):
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def small_network(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    return with_gradients(SpeedNet(10, 32, widths=[32, 8, 8]).to(memory_format=layout))


def follow_by_hand(parameter: Tensor, group: dict[str, Any], buffer: Tensor) -> None:
    """Make one step of Muon as its definition says it, one parameter at a time."""
    assert parameter.grad is not None
    gradient = parameter.grad + group["weight_decay"] * parameter
    buffer.mul_(group["momentum"]).add_(gradient)
    direction = gradient + group["momentum"] * buffer
    if group["normalize"]:
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
    if group["orthogonal"]:
        x = direction.flatten(1) / direction.norm()
        for _ in range(3):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        direction = x.view_as(parameter)
    parameter.sub_(group["lr"] * direction)


def test_parameters_that_move_together_move_as_each_would_alone() -> None:
    network = small_network()
    groups = muon(network, lr=0.1).param_groups
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                buffer = torch.zeros_like(parameter)
                for _ in range(3):
                    follow_by_hand(parameter, group, buffer)
    for alone, together in zip(network.parameters(), learnt(small_network()), strict=True):
        torch.testing.assert_close(alone.detach(), together, rtol=1e-4, atol=1e-5)


def test_matrices_of_one_shape_computed_together_give_what_each_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = learnt(small_network())
    shapes: list[torch.Size] = []

    def by_shape(matrices: list[Tensor]) -> list[list[int]]:
        shapes.extend(matrix.shape for matrix in matrices)
        return [
            [i for i, other in enumerate(matrices) if other.shape == shape] for shape in {m.shape for m in matrices}
        ]

    monkeypatch.setattr(muon_module, "_together", by_shape)
    for one, other in zip(alone, learnt(small_network()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(set(shapes)) < len(shapes) / 3  # some did share a shape: the claim is not empty


def test_the_layout_of_filters_in_memory_does_not_change_a_step() -> None:
    for one, other in zip(learnt(small_network()), learnt(small_network(torch.channels_last)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_rate_may_be_a_tensor() -> None:
    for one, other in zip(learnt(small_network()), learnt(small_network(), tensor_rate=True), strict=True):
        torch.testing.assert_close(one, other)


def test_muon_remembers_one_buffer_a_parameter_so_that_older_checkpoints_fit() -> None:
    network = small_network()
    optimizer = muon(network, lr=0.1)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    assert [tuple(state[index]["momentum_buffer"].shape) for index in range(len(state))] == shapes
    assert {key for entry in state.values() for key in entry} == {"momentum_buffer"}
    assert [set(group) for group in optimizer.state_dict()["param_groups"]] == [
        {"params", "lr", "momentum", "orthogonal", "normalize", "weight_decay"}
    ] * 3


def test_parameters_without_a_gradient_stay() -> None:
    network = small_network()
    idle = param_groups_of(network).filters[0]
    idle.grad, before = None, idle.detach().clone()
    learnt(network)
    assert torch.equal(idle, before)
    assert Muon([{"params": [idle], "orthogonal": True}]).step() is None  # a group may have none at all


def test_a_muon_step_has_the_spectral_norm_of_its_rate() -> None:
    torch.manual_seed(0)
    network = SpeedNet(10, 32, widths=[8, 16, 16])
    optimizer = muon(network, lr=0.1, normalize_filters=False)
    filters = param_groups_of(network).filters
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
    for filters in param_groups_of(network).filters:
        assert float(filters.detach().norm()) == pytest.approx(math.sqrt(len(filters)), rel=1e-4)


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
        losses.append(loss.item())
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


def test_direct_adam_takes_the_steps_of_adam_and_exchanges_its_state() -> None:
    def learn(optimizer: torch.optim.Adam, parameters: list[nn.Parameter], first: int) -> None:
        for number in range(first, first + 3):
            generator = torch.Generator().manual_seed(number)
            for parameter in parameters[number % 2 :]:  # not each has a gradient
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.param_groups[0]["lr"] = 0.1 / number
            optimizer.step()
            optimizer.zero_grad()

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(37, 5)).to(memory_format=torch.channels_last)
    direct_network, both = copy.deepcopy(network), {}
    both["direct"] = adam(direct_network, 0.01), list(direct_network.parameters())
    parameters = list(network.parameters())
    groups = [{"params": [each for each in parameters if is_matrix == (each.ndim > 1)]} for is_matrix in (True, False)]
    both["plain"] = torch.optim.Adam(groups, lr=0.01, fused=True), parameters
    assert type(both["direct"][0]) is DirectAdam
    for optimizer, of_it in both.values():
        learn(optimizer, of_it, 1)
    states = [optimizer.state_dict() for optimizer, _ in both.values()]
    for (optimizer, of_it), state in zip(both.values(), reversed(states), strict=True):
        optimizer.load_state_dict(copy.deepcopy(state))
        learn(optimizer, of_it, 4)
    assert all(torch.equal(a, b) for a, b in zip(both["direct"][1], parameters, strict=True))
    direct, plain = (optimizer.state_dict() for optimizer, _ in both.values())
    assert direct["param_groups"] == plain["param_groups"]
    assert str(direct["state"]) == str(plain["state"])
