"""Images of a collection as tiles of a gallery: thumbnail, class, and where the image is."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar10.analysis.report import Tile
from cifar10.data.class_names import printable
from cifar10.data.collection import Collection

_TILE = 96  # largest side of an image in a gallery, pixels


def image_tile(collection: Collection, image: int) -> Tile:
    """Return an image, with its class and place."""
    return Tile([small(collection.pixels(image))], collection.class_of(image), [place(collection, image)])


def place(collection: Collection, image: int) -> str:
    """Return the split of an image, if there are several, and its file or position."""
    split = f"{collection.place(image)[0]}: " if len(collection.splits) > 1 else ""
    return split + where(collection, image)


def where(collection: Collection, image: int) -> str:
    """Return the file of an image, or its position in its split."""
    file = collection.file(image)
    return f"no. {collection.place(image)[1]}" if file is None else printable(file)


def small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels, (H, W, 3), reduced to the largest size of a tile."""
    if max(pixels.shape[:2]) <= _TILE:
        return pixels
    picture = Image.fromarray(pixels)
    picture.thumbnail((_TILE, _TILE))
    return np.asarray(picture)
