"""HEIC photos, as iPhones make them, by libheif.

The package pi-heif holds libheif and a decoder (LGPL 3; the Python part is BSD), and no encoder: that of pillow-heif is
under the GPL. It applies the rotation that the file states.
"""

import io

from PIL import Image


def read_heic(data: bytes) -> Image.Image:
    """Return the main image of the file `data`; its pixels are not decoded yet.

    Raises:
        ModuleNotFoundError: pi-heif is not installed.
        Exception: The image is damaged.
    """
    from pi_heif.as_plugin import HeifImageFile

    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image
