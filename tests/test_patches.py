"""A first layer that learns nothing, activated in the same pass: the library's results."""

import pytest
import torch
from torch.nn.functional import conv2d, silu

from cifar10.kernels import machine_code
from cifar10.kernels.patches import convolve_and_activate, suits

pytestmark = pytest.mark.skipif(not machine_code.are_usable(), reason="needs llvmlite and GNU's OpenMP")


def make(num_images: int, size: tuple[int, int], num_filters: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, 3, *size, generator=random).contiguous(memory_format=torch.channels_last)
    return images, torch.randn(num_filters, 3, side, side, generator=random)


@pytest.mark.parametrize(
    ("size", "num_filters", "side"), [((32, 32), 24, 2), ((5, 9), 8, 1), ((11, 4), 96, 4), ((7, 7), 16, 3)]
)
def test_results_are_the_librarys(size: tuple[int, int], num_filters: int, side: int) -> None:
    images, filters = make(33, size, num_filters, side)
    assert suits(images, filters)
    found = convolve_and_activate(images, filters)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, silu(conv2d(images, filters)), rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    images, filters = make(33, (8, 8), 24, 2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(convolve_and_activate(images, filters))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_what_is_learnt_or_does_not_fit_goes_to_the_library() -> None:
    images, filters = make(33, (8, 8), 24, 2)
    assert not suits(images[:4], filters)  # too few to be worth compiling for
    assert not suits(images.contiguous(), filters)
    assert not suits(images, filters[:23])
    assert not suits(images.double(), filters.double())
    filters.requires_grad_()
    assert not suits(images, filters)
    assert convolve_and_activate(images, filters).grad_fn is not None
    with torch.no_grad():
        assert suits(images, filters)
