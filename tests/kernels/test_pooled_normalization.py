"""Normalise, rectify and pool in one pass: PyTorch's results, gradients and running statistics."""

import itertools

import pytest
import torch
from torch import Tensor

from cifar10.kernels import is_available
from cifar10.kernels.pooled_normalization import FusedBatchNormReLUPool, is_supported
from cifar10.networks.layers import BatchNormReLUPool

pytestmark = pytest.mark.skipif(not is_available(), reason="needs llvmlite and GNU's OpenMP")

Layer = type[BatchNormReLUPool]


def make_layer(channels: int, kind: Layer = FusedBatchNormReLUPool) -> BatchNormReLUPool:
    layer, random = kind(channels), torch.Generator().manual_seed(3)
    torch.nn.init.normal_(layer.weight, generator=random)  # negative ones turn the order of the pixels round
    torch.nn.init.normal_(layer.bias, generator=random)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.bias[-1] = -9.0  # nothing is positive
    return layer


def make_features(num_images: int, channels: int, height: int, width: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(num_images, channels, height, width, generator=random) + 2
    return features.contiguous(memory_format=torch.channels_last).requires_grad_()


def run(features: Tensor, kind: Layer = FusedBatchNormReLUPool) -> list[Tensor]:
    """Return results, gradients of features, weight and bias, running mean and variance, and batches."""
    layer = make_layer(features.shape[1], kind)
    results = layer(features)
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(results, [features, layer.weight, layer.bias], towards)
    assert layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None
    return [results.detach(), *gradients, layer.running_mean, layer.running_var, layer.num_batches_tracked]


@pytest.mark.parametrize(
    ("num_images", "channels", "height", "width"), [(4, 16, 2, 2), (5, 8, 6, 10), (3, 64, 16, 16), (40, 128, 4, 2)]
)
def test_results_gradients_and_statistics_are_those_of_pytorch(
    num_images: int, channels: int, height: int, width: int
) -> None:
    features = make_features(num_images, channels, height, width)
    assert is_supported(make_layer(channels), features)
    found, expected = run(features), run(features, BatchNormReLUPool)
    assert not torch.equal(found[1], expected[1])  # rounding tells who computed
    for own, pytorchs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, pytorchs, rtol=1e-4, atol=2e-5 * float(pytorchs.abs().max()))


def test_of_equal_pixels_the_first_gets_the_gradient() -> None:
    features = torch.zeros(2, 8, 2, 2).contiguous(memory_format=torch.channels_last)
    features[0] = 1.0
    found, expected = run(features.requires_grad_()), run(features, BatchNormReLUPool)
    torch.testing.assert_close(found[1], expected[1])
    assert found[1].unique().numel() > 2


def test_what_is_not_a_number_is_neither_hidden_nor_made() -> None:
    features = make_features(40, 16, 4, 4).detach()
    features[3, 5] = torch.nan
    layer = make_layer(16).eval()
    with torch.no_grad():
        results = layer(features)
    assert results[3, 5].isnan().all() and results.isnan().sum() == 4
    for row, column in itertools.product(range(2), range(2)):  # one of the four pixels
        features = make_features(40, 16, 4, 4).detach()
        features[3, 5, row, column] = torch.nan
        with torch.no_grad():
            results = layer(features)
        assert results[3, 5, 0, 0].isnan() and results.isnan().sum() == 1


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    features, before = make_features(7, 32, 14, 14), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(features)
        torch.set_num_threads(3)
        together = run(features)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("num_images", [2, 40])  # by PyTorch, and by the kernel
def test_outside_of_training_the_running_statistics_count_and_stay(num_images: int) -> None:
    features, layer = make_features(num_images, 16, 4, 4).detach(), make_layer(16).eval()
    assert layer.running_mean is not None and layer.running_var is not None
    mean, variance = torch.linspace(1, 3, 16), torch.linspace(4, 9, 16)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    with torch.no_grad():
        assert is_supported(layer, features) == (num_images == 40)
        results = layer(features)
    assert torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, variance)
    scale = layer.weight.detach() / (variance + layer.eps).sqrt()
    normalized = (features - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + layer.bias.detach().view(-1, 1, 1)
    torch.testing.assert_close(results, torch.nn.functional.max_pool2d(normalized.relu(), 2))


def test_other_cases_are_left_to_pytorch() -> None:
    features, layer = make_features(40, 16, 4, 4), make_layer(16)
    assert is_supported(layer, features)
    assert not is_supported(layer.eval(), features)  # with gradients
    layer.train()
    assert not is_supported(layer, features.double())
    assert not is_supported(layer, features[:, :, :3].contiguous(memory_format=torch.channels_last))
    assert not is_supported(layer, features[:, :, :, :3].contiguous(memory_format=torch.channels_last))
    assert not is_supported(layer, features.contiguous())
    assert not is_supported(make_layer(12), make_features(40, 12, 4, 4))
