"""The networks of the pooling laboratory in two kernels: what PyTorch computes, if it rounds in the same places.

Without autograd: bit by bit what it computes with the same kernels.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cifar10 import kernels
from cifar10.kernels import bfloat16_units, pooling_network
from cifar10.kernels.pooling_step import DirectGradients
from cifar10.networks.pooling.average_pool import AveragePoolCNN
from cifar10.networks.pooling.cnn import PoolingCNN
from cifar10.networks.pooling.max_pool import MaxPoolCNN
from cifar10.networks.pooling.stride import StrideCNN
from cifar10.training.augmentation import pack, unpack

needs_bfloat16 = pytest.mark.skipif(not bfloat16_units.is_available(), reason="needs a CPU with bfloat16, and llvmlite")
WAYS = (StrideCNN, MaxPoolCNN, AveragePoolCNN)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Rounded(torch.autograd.Function):
    """To bfloat16 and back; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor) -> Tensor:
        return numbers.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _RoundedGradient(torch.autograd.Function):
    """The numbers pass; the gradient is rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor) -> Tensor:
        return numbers.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].bfloat16().float()


def rounding_logits(network: PoolingCNN, images: Tensor) -> Tensor:
    """Return the logits in float32, rounded where factors of the kernels' products are."""
    features = network.normalize(images)
    for module in network.features.modules():
        if isinstance(module, nn.Conv2d):
            inputs, weight = _Rounded.apply(features), _Rounded.apply(module.weight)
            sums = functional.conv2d(inputs, weight, stride=module.stride, padding=module.padding)
            features = _RoundedGradient.apply(sums) + module.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]
        elif not list(module.children()):
            features = module(features)
    logits: Tensor = network.head(features.flatten(1))
    return logits


def make(way: type[PoolingCNN], number: int, widths: list[int]) -> tuple[Any, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)
    torch.manual_seed(0)
    network = way(5, 32, widths)  # type: ignore[call-arg]
    network.calibrate(images)
    return network, images, torch.arange(number) % 5


def learn(network: Any, logits: Tensor, labels: Tensor) -> list[Tensor]:
    network.zero_grad()
    functional.cross_entropy(logits.float(), labels).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def fused(network: Any, images: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = kernels.convert(network)(images)
    return logits


@needs_bfloat16
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("number", "widths"), [(37, [32, 32, 64]), (32, [64, 32, 32])])
def test_logits_and_gradients_are_those_of_pytorch(way: type[PoolingCNN], number: int, widths: list[int]) -> None:
    network, images, labels = make(way, number, widths)
    expected = rounding_logits(network, images)
    of_pytorch = learn(network, expected, labels)
    logits = fused(network, images)
    assert type(network).__name__ == f"Fused{way.__name__}"
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    for name, gradient, other in zip(
        dict(network.named_parameters()), learn(network, logits, labels), of_pytorch, strict=True
    ):
        assert (gradient - other).norm() < 0.01 * other.norm(), name


def in_channels_last(network: Any) -> Any:
    return network.to(memory_format=torch.channels_last)


@needs_bfloat16
@pytest.mark.parametrize("way", WAYS)
def test_threads_and_layouts_of_pixels_make_no_difference_but_in_the_order_of_sums(way: type[PoolingCNN]) -> None:
    network, images, labels = make(way, 37, [32, 32, 64])
    planar = fused(network, images)
    one = learn(network, planar, labels)
    for gradient, other in zip(learn(network, fused(in_channels_last(network), images), labels), one, strict=True):
        assert torch.equal(gradient, other)
    packed = fused(network, unpack(pack(images)))
    assert torch.equal(packed, planar)
    torch.set_num_threads(3)
    for gradient, other in zip(learn(network, fused(network, images), labels), one, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-6)


@needs_bfloat16
def test_memory_that_is_used_again_changes_nothing() -> None:
    network, images, labels = make(MaxPoolCNN, 64, [32, 32, 64])
    first = learn(network, fused(network, images), labels)
    with torch.no_grad():
        fused(network, images.flip(0)[:40])  # writes where the first pass has written
    fused(network, images.flip(0))  # has no backward pass
    for gradient, other in zip(learn(network, fused(network, images), labels), first, strict=True):
        assert torch.equal(gradient, other)


@needs_bfloat16
def test_other_inputs_are_computed_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a kernel was called")

    network, images, _ = make(MaxPoolCNN, 40, [32, 32, 64])
    kernels.convert(network)
    monkeypatch.setattr(pooling_network, "forward_kernel", refuse)
    with pytest.raises(AssertionError, match="a kernel was called"):
        fused(network, images)
    network(images)  # in float32
    fused(network, images[:8])  # few
    fused(network, images.float())
    narrow, images, _ = make(MaxPoolCNN, 40, [8, 16, 24])
    fused(narrow, images)


@needs_bfloat16
def test_conversion_keeps_the_weights_and_is_undone() -> None:
    network, images, _ = make(AveragePoolCNN, 40, [32, 32, 64])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused(network, images)
    assert type(kernels.revert(network)) is AveragePoolCNN
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def direct(network: PoolingCNN) -> DirectGradients:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kernels.direct_gradients(kernels.convert(network))
    assert found is not None
    return found


@needs_bfloat16
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_channels_last", [True, False])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_loss_and_gradients_are_those_of_autograd(
    way: type[PoolingCNN], is_channels_last: bool, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    network, images, labels = make(way, 64, [32, 32, 64])
    network, images = in_channels_last(network) if is_channels_last else network, unpack(pack(images))
    compute = direct(network)
    for batch, targets in ((images, labels), (images.flip(0), labels.flip(0)), (images[:40], labels[:40])):
        packed = unpack(pack(batch))
        logits = fused(network, packed)
        expected = learn(network, logits, targets)
        network.zero_grad()
        computed = compute(packed, targets)
        assert computed is not None
        assert torch.equal(computed[1], logits)
        assert torch.equal(computed[0], torch.nn.functional.cross_entropy(logits, targets))
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            assert torch.equal(parameter.grad, gradient)
            assert parameter.grad.stride() == gradient.stride()


@needs_bfloat16
def test_weights_that_are_changed_or_moved_are_used() -> None:
    network, images, labels = make(MaxPoolCNN, 64, [32, 32, 64])
    images, compute = unpack(pack(images)), direct(network)
    first = compute(images, labels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    changed = compute(images, labels)
    for parameter in network.parameters():
        parameter.data = parameter.data * 1.1
    moved = compute(images, labels)
    assert first is not None and changed is not None and moved is not None
    assert not torch.equal(first[1], changed[1])
    assert torch.equal(moved[1], fused(network, images))


@needs_bfloat16
def test_what_is_not_supported_sets_nothing() -> None:
    network, images, labels = make(MaxPoolCNN, 64, [32, 32, 64])
    compute, packed = direct(network), unpack(pack(images))
    few, planar, mixed = packed[:8], images, torch.eye(5)[labels]
    refused: list[tuple[Tensor, Tensor]] = [(few, labels[:8]), (planar, labels), (packed, mixed)]
    assert [compute(*batch) for batch in refused] == [None] * 3
    assert all(parameter.grad is None for parameter in network.parameters())


@needs_bfloat16
def test_only_fused_networks_in_bfloat16_have_direct_gradients() -> None:
    network, _, _ = make(MaxPoolCNN, 40, [32, 32, 64])
    plain, narrow = copy.deepcopy(network), make(MaxPoolCNN, 40, [8, 16, 24])[0]
    assert kernels.direct_gradients(kernels.convert(network)) is None  # in float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.direct_gradients(plain) is None
        assert kernels.direct_gradients(kernels.convert(narrow)) is None
