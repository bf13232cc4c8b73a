"""Pictures with large and small shapes, as photographs have, for tests that compare images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def scene(seed: int, size: int = 64) -> NDArray[np.uint8]:
    """Return uint8 (size, size, 3): shapes of several sizes and colours on a background that is not plain."""
    generator = np.random.default_rng(seed)
    background = Image.fromarray(generator.integers(40, 216, (4, 4, 3), np.uint8))
    image = background.resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for number in range(14):
        x, y = generator.integers(-size // 4, 2 * size, 2).tolist()
        width, height = (generator.integers(size // 8, size, 2) // (1 + number // 5)).tolist()
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def moved(pixels: NDArray[np.uint8], right: int, down: int) -> NDArray[np.uint8]:
    """Return a picture cut off at two sides by so many pixels, and enlarged to its size again."""
    size = len(pixels)
    cut = Image.fromarray(pixels).crop((right, down, size, size))
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC))


def brighter(pixels: NDArray[np.uint8], gain: float, shift: float) -> NDArray[np.uint8]:
    """Return a picture with other contrast and brightness."""
    changed: NDArray[np.uint8] = np.clip(gain * pixels.astype(np.float32) + shift, 0, 255).astype(np.uint8)
    return changed
