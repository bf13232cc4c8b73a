"""Normalise, shift, add a shortcut and activate in one pass: PyTorch's results, gradients, running statistics."""

import pytest
import torch
from torch import Tensor

from cifar10.kernels import bfloat16_units, is_available
from cifar10.kernels.normalization import FusedBatchNormSiLU, is_supported
from cifar10.networks.layers import BatchNormSiLU

pytestmark = pytest.mark.skipif(not is_available(), reason="needs llvmlite and GNU's OpenMP")

Layer = type[BatchNormSiLU]


def make_layer(channels: int, kind: Layer = FusedBatchNormSiLU) -> BatchNormSiLU:
    layer = kind(channels, momentum=0.4, eps=1e-5, shift_gain=2.0)
    torch.nn.init.normal_(layer.shift, generator=torch.Generator().manual_seed(3))
    return layer


def make_features(num_images: int, channels: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(num_images, channels, size, size, generator=random) + 2
    return features.contiguous(memory_format=torch.channels_last).requires_grad_()


def make_shortcut(features: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.empty_like(features).normal_(generator=random).requires_grad_()


def run(features: Tensor, shortcut: Tensor | None = None, kind: Layer = FusedBatchNormSiLU) -> list[Tensor]:
    """Return results, gradients of features, shift and shortcut, running mean and variance."""
    layer = make_layer(features.shape[1], kind)
    results = layer(features, shortcut)
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(1)).to(results.dtype)
    inputs = [features, layer.shift] if shortcut is None else [features, layer.shift, shortcut]
    gradients = torch.autograd.grad(results, inputs, towards)
    return [results.detach(), *gradients, layer.running_mean, layer.running_var]


@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(("num_images", "channels", "size"), [(4, 16, 2), (5, 8, 7), (3, 64, 15), (40, 256, 3)])
def test_results_gradients_and_statistics_are_those_of_pytorch(
    num_images: int, channels: int, size: int, with_shortcut: bool
) -> None:
    features = make_features(num_images, channels, size)
    shortcut = make_shortcut(features) if with_shortcut else None
    assert is_supported(features, torch.zeros(channels), training=True, shortcut=shortcut)
    found, expected = run(features, shortcut), run(features, shortcut, BatchNormSiLU)
    assert not torch.equal(found[0], expected[0])  # rounding tells who computed
    for own, pytorchs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, pytorchs, rtol=1e-4, atol=2e-5 * float(pytorchs.abs().max()))


@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(("num_images", "channels", "size"), [(5, 8, 7), (3, 64, 15), (40, 256, 3)])
def test_bfloat16_is_as_near_as_pytorch_is(num_images: int, channels: int, size: int, with_shortcut: bool) -> None:
    if not bfloat16_units.is_available():
        pytest.skip("needs a CPU with instructions for bfloat16")
    features = make_features(num_images, channels, size).detach().bfloat16().requires_grad_()
    shortcut = make_shortcut(features) if with_shortcut else None
    assert is_supported(features, torch.zeros(channels), training=True, shortcut=shortcut)
    found, rounded = (run(features, shortcut, kind) for kind in (FusedBatchNormSiLU, BatchNormSiLU))
    wide = None if shortcut is None else shortcut.detach().float().requires_grad_()
    expected = run(features.detach().float().requires_grad_(), wide, BatchNormSiLU)
    assert [x.dtype for x in found] == [x.dtype for x in rounded]
    for own, pytorchs, exact in zip(found, rounded, expected, strict=True):
        scale = float(exact.square().mean().sqrt())
        error, usual = (float((x.float() - exact).square().mean().sqrt()) / scale for x in (own, pytorchs))
        assert error < 1.05 * usual + 1e-5
        assert error < 0.01


def test_bfloat16_without_instructions_for_it_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_features(4, 16, 8).detach().bfloat16()
    monkeypatch.setattr(bfloat16_units, "is_available", lambda: False)
    assert not is_supported(features, torch.zeros(16), training=True)


def test_a_shortcut_of_another_layout_is_added_by_pytorch() -> None:
    features = make_features(4, 16, 8)
    shortcut = make_shortcut(features)
    rows_first = shortcut.detach().contiguous()
    assert not is_supported(features, torch.zeros(16), training=True, shortcut=rows_first)
    assert not is_supported(features, torch.zeros(16), training=True, shortcut=shortcut.double())
    assert not is_supported(features, torch.zeros(16), training=True, shortcut=shortcut[:1])
    torch.testing.assert_close(
        run(features, rows_first.requires_grad_()), run(features, shortcut), rtol=1e-4, atol=1e-3
    )


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    features, before = make_features(7, 32, 13), torch.get_num_threads()
    shortcut = make_shortcut(features)
    try:
        torch.set_num_threads(1)
        alone = run(features, shortcut)
        torch.set_num_threads(3)
        together = run(features, shortcut)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("num_images", [2, 40])  # by PyTorch, and by the kernel
def test_outside_of_training_the_running_statistics_count_and_stay(num_images: int) -> None:
    features, layer = make_features(num_images, 16, 4).detach(), make_layer(16).eval()
    shortcut = make_shortcut(features).detach()
    mean, variance = torch.linspace(1, 3, 16), torch.linspace(4, 9, 16)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    with torch.no_grad():
        assert is_supported(features, layer.shift, training=False) == (num_images == 40)
        plain, summed = layer(features), layer(features, shortcut)
    assert torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, variance)
    mean, variance, shift = (vector.view(-1, 1, 1) for vector in (mean, variance + 1e-5, 2 * layer.shift.detach()))
    expected = (features - mean) / variance.sqrt() + shift
    torch.testing.assert_close(plain, torch.nn.functional.silu(expected))
    torch.testing.assert_close(summed, torch.nn.functional.silu(expected + shortcut))


def test_gradients_outside_of_training_are_computed_by_pytorch() -> None:
    features = make_features(40, 16, 4)
    assert not is_supported(features, torch.zeros(16), training=False)
    assert make_layer(16).eval()(features).grad_fn is not None


def test_one_number_a_channel_has_no_variance_and_is_left_to_pytorch() -> None:
    assert not is_supported(make_features(1, 16, 1), torch.zeros(16), training=True)
