"""Normalise, shift and activate in one pass: the library's results, gradients and running statistics."""

import pytest
import torch
from torch import Tensor

from cifar10.kernels import machine_code
from cifar10.kernels.normalization import normalize_and_activate, suits

pytestmark = pytest.mark.skipif(not machine_code.are_usable(), reason="needs llvmlite and GNU's OpenMP")


def make_features(num_images: int, channels: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(num_images, channels, size, size, generator=random) + 2
    return features.contiguous(memory_format=torch.channels_last).requires_grad_()


def run(features: Tensor, training: bool = True) -> list[Tensor]:
    """Return results, gradients of features and shift, running mean and variance."""
    channels = features.shape[1]
    shift = torch.linspace(-1, 1, channels).requires_grad_()
    mean, variance = torch.zeros(channels), torch.ones(channels)
    results = normalize_and_activate(features, shift, mean, variance, training, momentum=0.4, epsilon=1e-5)
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(1))
    return [results.detach(), *torch.autograd.grad(results, (features, shift), towards), mean, variance]


@pytest.mark.parametrize(("num_images", "channels", "size"), [(4, 16, 2), (5, 8, 7), (3, 64, 15), (40, 256, 3)])
def test_results_gradients_and_statistics_are_the_librarys(num_images: int, channels: int, size: int) -> None:
    features = make_features(num_images, channels, size)
    assert suits(features, torch.zeros(channels), training=True)
    found = run(features)
    machine_code.allow(False)
    try:
        expected = run(features)
    finally:
        machine_code.allow(True)
    for own, librarys in zip(found, expected, strict=True):
        torch.testing.assert_close(own, librarys, rtol=1e-4, atol=2e-5 * float(librarys.abs().max()))


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    features, before = make_features(7, 32, 13), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(features)
        torch.set_num_threads(3)
        together = run(features)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("num_images", [2, 40])  # by the library, and by the kernel
def test_outside_of_training_the_running_statistics_count_and_stay(num_images: int) -> None:
    features, shift = make_features(num_images, 16, 4).detach(), torch.linspace(-1, 1, 16)
    mean, variance = torch.linspace(1, 3, 16), torch.linspace(4, 9, 16)
    before = mean.clone(), variance.clone()
    with torch.no_grad():
        assert suits(features, shift, training=False) == (num_images == 40)
        results = normalize_and_activate(features, shift, mean, variance, False, momentum=0.4, epsilon=1e-5)
    assert torch.equal(mean, before[0]) and torch.equal(variance, before[1])
    mean, variance, shift = (vector.view(-1, 1, 1) for vector in (mean, variance + 1e-5, shift))
    torch.testing.assert_close(results, torch.nn.functional.silu((features - mean) / variance.sqrt() + shift))


def test_what_wants_gradients_outside_of_training_goes_to_the_library() -> None:
    features = make_features(40, 16, 4)
    assert not suits(features, torch.zeros(16), training=False)
    results = normalize_and_activate(features, torch.zeros(16), torch.zeros(16), torch.ones(16), False, 0.4, 1e-5)
    assert results.grad_fn is not None


def test_one_number_a_channel_has_no_variance_and_goes_to_the_library() -> None:
    assert not suits(make_features(1, 16, 1), torch.zeros(16), training=True)
