"""Ten classes of drawn shapes, generated on the fly: a data set that needs no download and is not trivial.

Each image is one figure in a random colour on a random background, at a random place and size, with noise. The colours
of figure and background have the same distribution, so the mean of every pixel is the same in all classes: a linear
classifier cannot separate them, while a small convolutional network detects the edges.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.data.image_dataset import ImageDataset, Split, require_memory
from cifar10.types import NonNegativeInt, PositiveInt, Range, Seed

Field2D = NDArray[np.floating]
"""One number for each pixel, (N, H, W)."""

_LEAST_CONTRAST = 60.0  # distance of figure and background in grey levels
_NOISE = 12.0  # standard deviation in grey levels
_WHILE_DRAWN = 3  # times the pixels of a split, measured: the memory for drawing one class in float64, in addition


def _square(x: Field2D, y: Field2D) -> Field2D:
    distance: Field2D = np.maximum(np.abs(x), np.abs(y)) - 0.9
    return distance


def _plus(x: Field2D, y: Field2D) -> Field2D:
    across = np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)
    upright = np.maximum(np.abs(x) - 0.3, np.abs(y) - 1)
    distance: Field2D = np.minimum(across, upright)
    return distance


_FIGURES: dict[str, Callable[[Field2D, Field2D], Field2D]] = {
    "disk": lambda x, y: np.hypot(x, y) - 1,
    "square": _square,
    "triangle": lambda x, y: np.maximum(0.87 * np.abs(x) - 0.5 * y, y) - 0.55,
    "plus": _plus,
    "cross": lambda x, y: _plus((x + y) * np.float32(0.7071), (x - y) * np.float32(0.7071)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 1 + 0.25) - 0.2,
    "frame": lambda x, y: np.abs(_square(x, y) + 0.25) - 0.2,
    "rows": lambda x, y: np.maximum(_square(x, y), 0.2 * np.sin(2.5 * np.pi * y)),
    "columns": lambda x, y: np.maximum(_square(x, y), 0.2 * np.sin(2.5 * np.pi * x)),
    "checkers": lambda x, y: np.maximum(_square(x, y), 0.2 * np.sin(1.75 * np.pi * x) * np.sin(1.75 * np.pi * y)),
}
"""Position relative to a figure's centre -> signed distance to its edge, in units of its radius; negative inside."""


def shapes(
    image_size: Annotated[int, Range(ge=16, le=256)] = 32,
    train_size: Annotated[int, Range(ge=10)] = 4000,
    validation_size: NonNegativeInt = 500,
    test_size: PositiveInt = 1000,
    seed: Seed = 0,
) -> ImageDataset:
    """Draw the data set. Each split has its own random stream, so its size does not change the others.

    Args:
        image_size: H = W in pixels.
        train_size: Training images.
        validation_size: Validation images.
        test_size: Test images.
        seed: Seed of all random streams.

    Raises:
        DataError: The images do not fit into memory.
    """
    sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
    largest = max(sizes, key=lambda name: sizes[name])
    num_images = sum(sizes.values()) + _WHILE_DRAWN * sizes[largest]
    require_memory(num_images * 3 * image_size**2, image_size, f"choose a smaller data_loading.{largest}")
    train, validation, test = (
        _draw_split(size, image_size, np.random.default_rng([seed, stream]))
        for stream, size in enumerate(sizes.values())
    )
    return ImageDataset("shapes", tuple(_FIGURES), train, validation, test, is_mirrorable=True)


def _draw_split(num_images: int, size: int, random: np.random.Generator) -> Split:
    labels = random.permutation(np.arange(num_images) % len(_FIGURES))  # balanced
    images = np.empty((num_images, 3, size, size), dtype=np.uint8)
    for label, distance in enumerate(_FIGURES.values()):
        chosen = labels == label
        x, y, radius = _random_frames(int(chosen.sum()), size, random)
        cover = np.clip(0.5 - distance(x, y) * radius, 0, 1)  # (n, H, W): fraction of a pixel that the figure covers
        images[chosen] = _paint(cover, random)
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _random_frames(num_images: int, size: int, random: np.random.Generator) -> tuple[Field2D, Field2D, Field2D]:
    """Return pixel positions relative to a figure's centre in units of its radius, and the radius in pixels."""
    radius = random.uniform(0.22, 0.38, (num_images, 1, 1)) * size
    centre = random.uniform(0.38, 0.62, (2, num_images, 1, 1)) * size
    line = np.arange(size) + 0.5
    x = (line[None, None, :] - centre[0]) / radius
    y = (line[None, :, None] - centre[1]) / radius
    x, y = np.broadcast_arrays(x, y)
    return x.astype(np.float32), y.astype(np.float32), radius.astype(np.float32)


def _paint(cover: Field2D, random: np.random.Generator) -> NDArray[np.uint8]:  # (n, H, W) -> (n, 3, H, W)
    ground = random.uniform(0, 255, (len(cover), 3))
    figure = random.uniform(0, 255, (len(cover), 3))
    while len(near := np.flatnonzero(np.linalg.norm(figure - ground, axis=1) < _LEAST_CONTRAST)):
        figure[near] = random.uniform(0, 255, (len(near), 3))
    ground, figure = ground[..., None, None], figure[..., None, None]
    pixels = ground + (figure - ground) * cover[:, None]
    pixels += random.normal(0, _NOISE, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
