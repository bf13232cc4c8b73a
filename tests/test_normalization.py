"""Normalise, shift, add a shortcut and activate in one pass: the library's results, gradients, running statistics."""

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


def make_shortcut(features: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.empty_like(features).normal_(generator=random).requires_grad_()


def run(features: Tensor, shortcut: Tensor | None = None) -> list[Tensor]:
    """Return results, gradients of features, shift and shortcut, running mean and variance."""
    channels = features.shape[1]
    shift = torch.linspace(-1, 1, channels).requires_grad_()
    mean, variance = torch.zeros(channels), torch.ones(channels)
    results = normalize_and_activate(
        features, shift, mean, variance, training=True, momentum=0.4, epsilon=1e-5, shortcut=shortcut
    )
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(1))
    inputs = [features, shift] if shortcut is None else [features, shift, shortcut]
    return [results.detach(), *torch.autograd.grad(results, inputs, towards), mean, variance]


@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize(("num_images", "channels", "size"), [(4, 16, 2), (5, 8, 7), (3, 64, 15), (40, 256, 3)])
def test_results_gradients_and_statistics_are_the_librarys(
    num_images: int, channels: int, size: int, with_shortcut: bool
) -> None:
    features = make_features(num_images, channels, size)
    shortcut = make_shortcut(features) if with_shortcut else None
    assert suits(features, torch.zeros(channels), training=True, shortcut=shortcut)
    found = run(features, shortcut)
    machine_code.allow(False)
    try:
        expected = run(features, shortcut)
    finally:
        machine_code.allow(True)
    for own, librarys in zip(found, expected, strict=True):
        torch.testing.assert_close(own, librarys, rtol=1e-4, atol=2e-5 * float(librarys.abs().max()))


def test_a_shortcut_laid_out_otherwise_goes_to_the_library() -> None:
    features = make_features(4, 16, 8)
    shortcut = make_shortcut(features)
    rows_first = shortcut.detach().contiguous()
    assert not suits(features, torch.zeros(16), training=True, shortcut=rows_first)
    assert not suits(features, torch.zeros(16), training=True, shortcut=shortcut.double())
    assert not suits(features, torch.zeros(16), training=True, shortcut=shortcut[:1])
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


@pytest.mark.parametrize("num_images", [2, 40])  # by the library, and by the kernel
def test_outside_of_training_the_running_statistics_count_and_stay(num_images: int) -> None:
    features, shift = make_features(num_images, 16, 4).detach(), torch.linspace(-1, 1, 16)
    shortcut = make_shortcut(features).detach()
    mean, variance = torch.linspace(1, 3, 16), torch.linspace(4, 9, 16)
    before = mean.clone(), variance.clone()
    with torch.no_grad():
        assert suits(features, shift, training=False) == (num_images == 40)
        plain, summed = (
            normalize_and_activate(features, shift, mean, variance, False, 0.4, 1e-5, beside)
            for beside in (None, shortcut)
        )
    assert torch.equal(mean, before[0]) and torch.equal(variance, before[1])
    mean, variance, shift = (vector.view(-1, 1, 1) for vector in (mean, variance + 1e-5, shift))
    expected = (features - mean) / variance.sqrt() + shift
    torch.testing.assert_close(plain, torch.nn.functional.silu(expected))
    torch.testing.assert_close(summed, torch.nn.functional.silu(expected + shortcut))


def test_what_wants_gradients_outside_of_training_goes_to_the_library() -> None:
    features = make_features(40, 16, 4)
    assert not suits(features, torch.zeros(16), training=False)
    results = normalize_and_activate(features, torch.zeros(16), torch.zeros(16), torch.ones(16), False, 0.4, 1e-5)
    assert results.grad_fn is not None


def test_one_number_a_channel_has_no_variance_and_goes_to_the_library() -> None:
    assert not suits(make_features(1, 16, 1), torch.zeros(16), training=True)
