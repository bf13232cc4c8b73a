"""Small filters over whole images, and SiLU, in one pass, in float32, on a CPU: for a first layer that learns nothing.

Shapes: B images of C channels and H x W pixels, K filters of p x p, no margin: (B, K, H - p + 1, W - p + 1).
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cifar10.kernels.machine_code import LEAST_IMAGES, Kernel, are_usable
from cifar10.kernels.program import Integer, Program, array, lanes_for

_LARGEST_PATCH = 64  # C p p; its products are written one by one into the program


def convolve_and_activate(images: Tensor, filters: Tensor) -> Tensor:
    """Return SiLU(images * filters).

    Args:
        images: (B, C, H, W).
        filters: (K, C, p, p).
    """
    if not suits(images, filters):
        return functional.silu(functional.conv2d(images, filters))
    num_filters, channels, side, _ = filters.shape
    height, width = (pixels - side + 1 for pixels in images.shape[2:])
    results = torch.empty((len(images), num_filters, height, width), memory_format=torch.channels_last)
    by_input = filters.detach().permute(2, 3, 1, 0).contiguous()  # (p, p, C, K)
    _kernel(channels, num_filters, side, images.shape[3])(len(images), images, by_input, results, height)
    return results


def suits(images: Tensor, filters: Tensor) -> bool:
    """Return whether these can be convolved here."""
    return (
        not (torch.is_grad_enabled() and (images.requires_grad or filters.requires_grad))
        and len(images) >= LEAST_IMAGES
        and images.device.type == "cpu"
        and images.dtype == filters.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and images.is_contiguous(memory_format=torch.channels_last)
        and lanes_for(len(filters)) > 0
        and filters[0].numel() <= _LARGEST_PATCH
        and filters.shape[2] == filters.shape[3] <= min(images.shape[2:])
        and not torch.compiler.is_compiling()
        and are_usable()
    )


@functools.cache
def _kernel(channels: int, num_filters: int, side: int, width: int) -> Kernel:
    """Compile SiLU(images * filters). Called with images, filters, results, rows of results."""
    columns = width - side + 1
    patch = [
        (row * width + column) * channels + c for row in range(side) for column in range(side) for c in range(channels)
    ]

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        images, filters, results = (array(argument) for argument in arguments[:3])
        rows = arguments[3]
        with program.loop(first, end) as image, program.loop(0, rows) as row, program.loop(0, columns) as column:
            corner = ((image * (rows + (side - 1)) + row) * width + column) * channels
            pixels = [images.spread(corner + offset) for offset in patch]
            target = ((image * rows + row) * columns + column) * num_filters
            for number in range(0, num_filters, program.num_lanes):
                z = program.constant(0.0)
                for place, pixel in enumerate(pixels):
                    z = pixel * filters.load(place * num_filters + number) + z
                results.store(z * program.sigmoid(z), target + number)

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(num_filters))
