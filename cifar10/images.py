"""Bytes or a path -> RGB pixels, or the reason why not.

The one decoder for inference, class folders and serving, so that they cannot drift apart. Needs no torch.
Pixels are uint8 (H, W, 3). What becomes of pictures that are not plain 8-bit RGB:

- turned as their EXIF orientation says, and only the first frame or page is used;
- transparency is laid over white, the ground that most pictures with it were drawn for;
- 16-bit grey is divided by 257; float is read as 0 to 1 or else as 0 to 255, and refused if it fits neither;
- colour profiles are ignored: the numbers are taken as sRGB.

Known limit: JPEG has no checksums. One that is cut off is refused; changed bytes may go unnoticed as wrong pixels.
"""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cifar10.errors import UserError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 52_000_000
"""Largest width x height that is decoded: 50-megapixel photographs pass (8192 x 6144), at 0.5 GB while they do."""
MAX_BYTES = 128 * 2**20
"""Largest file that is read."""

_LIMIT = f"{MAX_PIXELS // 10**6} megapixels"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # without this list Pillow may start Ghostscript
_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BIT_MODES = frozenset(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX", "LA", "PA", "RGBA", "RGBa"])


class ImageError(UserError):
    """This file or these bytes cannot be used as an image; the message is the reason, in a few words."""


def decode_image(source: bytes | Path) -> Pixels:
    """Return the picture in `source`, encoded bytes or a file, as uint8 (H, W, 3).

    Nothing is decoded before the size in the header has been checked.

    Raises:
        ImageError: it cannot be read, is damaged, is not of a known format, or is too large.
    """
    data = source if isinstance(source, bytes) else _read(source)
    if not data:
        raise ImageError("empty file")
    try:
        return _decode(data)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit
        raise ImageError(f"too large: the limit is {_LIMIT}") from None
    except Exception as error:  # Pillow lets damaged files raise nearly anything, from KeyError to struct.error
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"damaged: {reason}") from None


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """Return the central square of `pixels` as (size, size, 3); pixels of that size come back untouched.

    The short side is scaled to `size` and the long side cropped in the middle. Bicubic, smoothed when shrinking.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    square = (left, top, left + side, top + side)
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=square))


def silence_pillow() -> None:
    """Keep Pillow's remarks about metadata off the terminal. A walk calls it once, before its threads start.

    What concerns the pixels is an ImageError; filters cannot be set per call, because they are not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _read(path: Path) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()  # its reason, if it cannot be listed
            raise ImageError("a folder")
        if not stat.S_ISREG(mode):
            raise ImageError("not a regular file")
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_BYTES:
                raise ImageError(f"too large: {status.st_size / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that has taken its place since it was looked at must not block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode(data: bytes) -> Pixels:
    image: Image.Image = _open(data)
    if image.format == "PNG":  # the only format whose verify() does something; decoding alone ignores checksums
        _verify_png(image, data)
        image = _open(data)  # verify() leaves it unusable
    image.load()
    return _turn(image, _rgb(image))


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"too large: {width} x {height} pixels, the limit is {_LIMIT}")
    return image


def _verify_png(image: Image.Image, data: bytes) -> None:
    try:
        image.verify()
        intact = _PNG_END in data  # verify() does not look at the last checksum
    except Exception:
        intact = False
    if not intact:
        raise ImageError("damaged: a checksum is wrong or the end is missing")


def _unidentified(data: bytes) -> str:
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return f"damaged: a {name} header that cannot be read"
    return "not a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM image"


def _rgb(image: Image.Image) -> Pixels:
    if image.mode == "F":
        return _grey(_bytes_of_float(np.asarray(image)))
    if image.mode.startswith("I"):
        return _grey(_bytes_of_sixteen_bits(np.asarray(image)))
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"colour mode {image.mode} is not supported")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[:, :, None], 3, axis=2)


def _bytes_of_sixteen_bits(values: NDArray[np.integer]) -> Pixels:
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"grey values from {values.min()} to {values.max()}; expected 0 to 65535")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _bytes_of_float(values: NDArray[np.floating]) -> Pixels:
    low, high = float(values.min()), float(values.max())  # NaN if there is one, and then no comparison holds
    if not (low >= 0 and high <= 255):
        raise ImageError(f"float values from {low:g} to {high:g}; expected 0 to 1, or 0 to 255")
    rounded: Pixels = np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    return rounded


def _turn(image: Image.Image, pixels: Pixels) -> Pixels:
    """Apply the EXIF orientation of `image` to its `pixels`. Pillow itself has already turned a TIFF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata that cannot be read say nothing about the pixels
        return pixels
    method = _TURNS.get(orientation)
    return pixels if method is None else np.array(Image.fromarray(pixels).transpose(method))
