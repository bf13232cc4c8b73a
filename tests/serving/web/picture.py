"""Pictures to upload. Importing this needs no PyTorch."""

import io

import numpy as np
from PIL import Image


def png(size: tuple[int, int] = (40, 30), seed: int = 0, form: str = "PNG") -> bytes:
    """Return an encoded picture of noise, width x height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()
