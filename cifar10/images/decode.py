"""Decode bytes or a file to RGB pixels, or raise an error with the reason.

The one decoder for inference, class folders and serving, so that they cannot drift apart. Needs no torch.
Pixels are uint8 (H, W, 3). What becomes of pictures that are not plain 8-bit RGB:

- turned as their EXIF orientation says, and only the first frame or page is used;
- transparency is laid over white, the ground that most pictures with it were drawn for;
- 16-bit grey is divided by 257; float is read as 0 to 1 or else as 0 to 255, and refused if it fits neither;
- colour profiles are ignored: the numbers are taken as sRGB.

Known limit: JPEG has no checksums. One that lacks pixels is refused; changed bytes may go unnoticed as wrong pixels.
`image_structure` says what else is not noticed.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from cifar10.errors import UserError
from cifar10.images.other_formats import kind_of_photo
from cifar10.images.structure import excessive_work, lacks_pieces, lacks_pixels, unbounded_header

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

MAX_PIXELS = 52_000_000
"""Largest width x height that is decoded: 50-megapixel photographs pass (8192 x 6144)."""
MAX_BYTES = 128 * 2**20
"""Largest file that is read."""

_BAND_PIXELS = 2**20
"""Pixels that are converted to RGB, turned and made narrow at a time: a copy of 50 megapixels takes 200 MB."""
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
_SIDEWAYS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))  # these swap rows and columns
_FROM_THE_RIGHT = frozenset(_TURNS[orientation] for orientation in (2, 3, 7, 8))
_FROM_BELOW = frozenset(_TURNS[orientation] for orientation in (3, 4, 6, 7))
_EIGHT_BIT_MODES = frozenset(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX", "LA", "PA", "RGBA", "RGBa"])


class ImageError(UserError):
    """This file or these bytes cannot be used as an image; the message is the reason, in a few words."""


class EncodedImage:
    """A picture whose header has been read and found possible; its pixels have not been decoded.

    Raises:
        ImageError: it is damaged, is not of a known format, or is too large.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise ImageError("empty file")
        self._data = data
        try:
            self._image = _open(data)
        except Exception as error:
            raise _reason(error, data) from None

    @property
    def num_pixels(self) -> int:
        return self._image.width * self._image.height

    def decode(self) -> Pixels:
        """Return it as uint8 (H, W, 3).

        Raises:
            ImageError: it is damaged.
        """
        try:
            return np.array(_upright_rgb(_load(self._image, self._data)))
        except Exception as error:
            raise _reason(error, self._data) from None

    def decode_square(self, size: int) -> Pixels:
        """Return what `resize_image` makes of it, uint8 (size, size, 3), without a copy of all pixels.

        Raises:
            ImageError: it is damaged.
        """
        try:
            return np.array(_upright_square(_load(self._image, self._data), size))
        except Exception as error:
            raise _reason(error, self._data) from None


def decode_image(source: bytes | Path) -> Pixels:
    """Return the picture in `source`, encoded bytes or a file, as uint8 (H, W, 3).

    Nothing is decoded before the size in the header has been checked.

    Raises:
        ImageError: it cannot be read, is damaged, is not of a known format, or is too large.
    """
    return EncodedImage(source if isinstance(source, bytes) else read_image_file(source)).decode()


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """Return the central square of `pixels` as (size, size, 3); pixels of that size come back untouched.

    The short side is scaled to `size` and the long side cropped in the middle. Bicubic, smoothed when shrinking.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.array(_square(Image.fromarray(pixels), size))


def resize_picture(picture: Image.Image, size: int) -> Pixels:
    """Return the central square of a PIL image as uint8 (size, size, 3): what its file would be decoded to.

    Raises:
        ImageError: It is damaged, closed, too large, or of a colour mode that is not supported.
    """
    width, height = picture.size
    _refuse("it has no pixels" if not width * height else None)
    _refuse(_too_large(width, height))
    try:
        return np.array(_upright_square(picture, size))
    except Exception as error:
        raise _reason(error, b"") from None


def silence_pillow() -> None:
    """Keep Pillow's remarks about metadata off the terminal. Entry points call it once, before threads start.

    What concerns the pixels is an ImageError; filters cannot be set per call, because they are not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image_file(path: Path, before_reading: Callable[[int], None] | None = None) -> bytes:
    """Return what is in the file; its size in bytes is passed to `before_reading`, which may wait.

    Raises:
        ImageError: it cannot be read, is no regular file, or is too large.
    """
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
            if before_reading is not None:
                before_reading(status.st_size)
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that has taken its place since it was looked at must not block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception, data: bytes) -> ImageError:
    """Return what to say of `data` instead of `error`."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, UnidentifiedImageError):
        return ImageError(_unidentified(data))
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):  # Pillow's own limit
        return ImageError(f"too large: the limit is {_LIMIT}")
    if isinstance(error, MemoryError):
        return ImageError("too large for the memory that is left")
    # Pillow lets damaged files raise nearly anything, from KeyError to struct.error
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return ImageError(f"damaged: {reason}")


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ImageError(reason)


def _too_large(width: int, height: int) -> str | None:
    return f"too large: {width} x {height} pixels, the limit is {_LIMIT}" if width * height > MAX_PIXELS else None


def _open(data: bytes) -> Image.Image:
    _refuse(unbounded_header(data))
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    _refuse(_too_large(*image.size))
    _refuse(excessive_work(image, data, MAX_PIXELS))
    _refuse(lacks_pieces(image))
    return image


def _load(image: Image.Image, data: bytes) -> Image.Image:
    """Return the picture with its pixels, none of them missing."""
    if image.format == "PNG":  # the only format whose verify() does something; decoding alone ignores checksums
        _verify_png(image, data)
        image = _open(data)  # verify() leaves it unusable
    image.load()
    _refuse(lacks_pixels(image, data))
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    converted, turn = _rgb(image), _turn(image)
    return converted if turn is None else converted.transpose(turn)


def _upright_square(image: Image.Image, size: int) -> Image.Image:
    """Return what `_square` makes of the whole picture, turned and in RGB, without ever having all of that in memory.

    Pillow resizes each row and then each column of what comes out; the rows can as well be resized band by band. Of
    pictures that are higher than wide it may resize the columns first, which gives other last bits.
    """
    turn = _turn(image)
    width, height = image.size[::-1] if turn in _SIDEWAYS else image.size
    if width * height <= _BAND_PIXELS or height > width or (width, height) == (size, size):
        return _square(_upright_rgb(image), size)
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    convert = _conversion(image)
    narrow = Image.new("RGB", (size, height))
    for box in _bands(width, height):
        part = convert(image.crop(_before_turn(box, turn, image.size)))
        part = part if turn is None else part.transpose(turn)
        part = part.resize((size, part.height), Image.Resampling.BICUBIC, box=(left, 0, left + side, part.height))
        narrow.paste(part, (0, box[1]))
    return narrow.resize((size, size), Image.Resampling.BICUBIC, box=(0, top, size, top + side))


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    square = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=square)


def _verify_png(image: Image.Image, data: bytes) -> None:
    try:
        image.verify()
        intact = _PNG_END in data  # verify() does not look at the last checksum
    except Exception:
        intact = False
    if not intact:
        raise ImageError("damaged: a checksum is wrong or the end is missing")


def _unidentified(data: bytes) -> str:
    if (kind := kind_of_photo(data[:256])) is not None:
        return kind
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return f"damaged: a {name} header that cannot be read"
    return "not a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM image"


def _rgb(image: Image.Image) -> Image.Image:
    """Return `image` in RGB, converted band by band."""
    convert = _conversion(image)
    if convert is _unchanged or image.width * image.height <= _BAND_PIXELS:
        return convert(image)
    converted = Image.new("RGB", image.size)
    for box in _bands(*image.size):
        converted.paste(convert(image.crop(box)), box)
    return converted


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes RGB of any part of `image`."""
    if image.mode == "F":
        scale = _float_scale(*_extremes(image))
        return lambda part: _grey(np.rint(np.asarray(part) * scale).astype(np.uint8))
    if image.mode.startswith("I"):
        _refuse_beyond_sixteen_bits(*_extremes(image))
        return lambda part: _grey(((np.asarray(part).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"colour mode {image.mode} is not supported")
    if image.has_transparency_data:
        return _over_white
    return _unchanged if image.mode == "RGB" else lambda part: part.convert("RGB")


def _unchanged(part: Image.Image) -> Image.Image:
    return part


def _bands(width: int, height: int) -> Iterator[Box]:
    """Yield boxes of whole rows, from top to bottom."""
    rows = max(_BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _over_white(part: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", part.size, "white")
    canvas.alpha_composite(part.convert("RGBA"))
    return canvas.convert("RGB")


def _grey(values: Pixels) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if one is."""
    found = [(values.min(), values.max()) for box in _bands(*image.size) for values in [np.asarray(image.crop(box))]]
    return np.min([low for low, _ in found]).item(), np.max([high for _, high in found]).item()


def _refuse_beyond_sixteen_bits(low: float, high: float) -> None:
    if low < 0 or high > 65535:
        raise ImageError(f"grey values from {low} to {high}; expected 0 to 65535")


def _float_scale(low: float, high: float) -> int:
    if not (low >= 0 and high <= 255):  # not so if one is NaN
        raise ImageError(f"float values from {low:g} to {high:g}; expected 0 to 1, or 0 to 255")
    return 255 if high <= 1 else 1


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn `image` as its EXIF orientation says. Pillow itself has already turned a TIFF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata that cannot be read say nothing about the pixels
        return None
    return _TURNS.get(orientation)


def _before_turn(box: Box, turn: Image.Transpose | None, size: tuple[int, int]) -> Box:
    """Return where the pixels of `box` lie in a picture of `size` that is not turned yet."""
    left, top, right, bottom = box
    width, height = size
    if turn in _SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    if turn in _FROM_THE_RIGHT:
        left, right = width - right, width - left
    if turn in _FROM_BELOW:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
