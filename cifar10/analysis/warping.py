"""Blur, zoom, shift and texture of batches of images, from which corruptions are made.

Blur and zoom are products with a matrix from both sides: the same for all images, and fast at any size.

Shapes: B images of C channels and S x S pixels; float.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

_REACH = 3.0  # standard deviations of a Gaussian; what lies further out weighs less than 0.3 %
_TAP = 2.0  # pixels between the copies of which a streak consists


def both_sides(images: Tensor, matrix: Tensor) -> Tensor:
    """Return `matrix` @ image @ `matrix`.T for each channel, (B, C, M, M), for a `matrix` (M, S)."""
    return matrix @ images @ matrix.T


def gaussian(size: int, sigma: float) -> Tensor:
    """Return the matrix (S, S) that blurs by a Gaussian of `sigma` pixels; the border is reflected."""
    if sigma <= 0:
        return torch.eye(size)
    reach = max(1, math.ceil(_REACH * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((size, size))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        matrix[np.arange(size), _reflected(np.arange(size) + offset, size)] += weight
    return torch.from_numpy(matrix).float()


def zoom(size: int, factor: float) -> Tensor:
    """Return the matrix (S, S) that enlarges the centre of an image by `factor`, 1 or more, linearly interpolated."""
    sources = (np.arange(size) + 0.5 - size / 2) / factor + size / 2 - 0.5
    below = np.floor(sources).astype(int)
    matrix = np.zeros((size, size))
    for neighbours, weights in ((below, 1 - (sources - below)), (below + 1, sources - below)):
        np.add.at(matrix, (np.arange(size), neighbours.clip(0, size - 1)), weights)
    return torch.from_numpy(matrix).float()


def pixels_of(size: int, number: int) -> Tensor:
    """Return the matrix (S, S) that averages an image to `number` large pixels a side, and enlarges it again."""
    edges = np.linspace(0, size, number + 1)
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)  # (number, S)
    averaged = overlap.clip(0) / (size / number)
    shown = np.minimum(((np.arange(size) + 0.5) * number / size).astype(int), number - 1)
    return torch.from_numpy(averaged[shown]).float()


def defocused(images: Tensor, radius: float, softness: float) -> Tensor:
    """Return `images` through a lens out of focus: each point becomes a disc of `radius` pixels with a soft edge.

    `softness` is the standard deviation in pixels of the edge's blur, over 3 x 3 pixels.
    """
    reach = math.ceil(radius) + 1
    across = np.arange(-reach, reach + 1)
    disc = ((across[:, None] ** 2 + across**2) <= radius**2).astype(float)
    edge = np.exp(-0.5 * (np.arange(-1, 2) / softness) ** 2)
    soft = gaussian_padded(disc / disc.sum(), edge / edge.sum())
    kernel = torch.from_numpy(soft).float().expand(images.shape[1], 1, -1, -1)
    reach = min(reach, images.shape[-1] - 1)
    kernel = kernel[..., _middle(kernel.shape[-1], reach), :][..., _middle(kernel.shape[-1], reach)]
    kernel = kernel / kernel.sum(dim=(2, 3), keepdim=True)
    return conv2d(pad(images, (reach,) * 4, mode="reflect"), kernel, groups=images.shape[1])


def gaussian_padded(kernel: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `kernel`, (n, n) with a free border, convolved with three `weights` along both axes."""
    for axis in (0, 1):
        moved = [weight * np.roll(kernel, shift, axis) for shift, weight in zip((-1, 0, 1), weights, strict=True)]
        kernel = np.sum(moved, axis=0)
    return kernel


def streaked(images: Tensor, angles: Tensor, radius: float, sigma: float) -> Tensor:
    """Return `images` smeared in one direction each, as by motion.

    Args:
        images: (B, C, S, S).
        angles: Directions in radians, (B,).
        radius: Half the largest length in pixels.
        sigma: Standard deviation in pixels of the weights, which are largest at the start.
    """
    length = min(2 * radius, _REACH * sigma)
    number = max(2, math.ceil(length / min(_TAP, max(1.0, length / 8))) + 1)
    distances = torch.linspace(0, length, number)
    weights = torch.exp(-0.5 * (distances / sigma) ** 2)
    size, total = images.shape[-1], torch.zeros_like(images)
    right, down = 2 / size * torch.cos(angles), 2 / size * torch.sin(angles)
    for distance, weight in zip(distances.tolist(), (weights / weights.sum()).tolist(), strict=True):
        total += weight * _shifted(images, distance * right, distance * down)
    return total


def _shifted(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Return `images` with the content moved against these parts of half a side, each (B,)."""
    matrices = torch.zeros(len(images), 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    matrices[:, 0, 2], matrices[:, 1, 2] = right, down
    return sampled(images, affine_grid(matrices, list(images.shape), align_corners=False))


def sampled(images: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Return `images` at the positions `grid`, (B, S, S, 2), in -1..1: columns and rows; the border is reflected."""
    return grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def plain_grid(size: int) -> Tensor:
    """Return the positions of all pixels, (1, S, S, 2), as `sampled` takes them."""
    return affine_grid(torch.eye(2, 3)[None], [1, 1, size, size], align_corners=False)


def fractal(number: int, size: int, roughness: float, random: np.random.Generator) -> Tensor:
    """Return clouds, (B, 1, S, S), each from 0 to 1: noise whose amplitude falls with its frequency.

    Args:
        number: B.
        size: S.
        roughness: Factor by which the amplitude falls when the frequency doubles; 1 is rough, 3 smooth.
        random: Source of the noise.
    """
    side = 2 * size  # of which a part is taken, since opposite borders fit each other
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequencies = np.sqrt(rows**2 + columns**2)
    frequencies[0, 0] = np.inf
    amplitudes = torch.from_numpy(frequencies ** -(1 + math.log2(roughness))).float()
    noise = torch.from_numpy(random.standard_normal((number, side, side), np.float32))
    clouds = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitudes, s=(side, side))[:, None, :size, :size]
    low, high = clouds.amin(dim=(2, 3), keepdim=True), clouds.amax(dim=(2, 3), keepdim=True)
    scaled: Tensor = (clouds - low) / (high - low).clamp(min=1e-12)
    return scaled


def _reflected(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return positions inside 0..size-1, reflected at the outer edges of the border pixels."""
    period = positions % (2 * size)
    return np.minimum(period, 2 * size - 1 - period)


def _middle(length: int, reach: int) -> slice:
    return slice(length // 2 - reach, length // 2 + reach + 1)
