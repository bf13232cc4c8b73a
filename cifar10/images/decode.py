"""Decode bytes or a file to RGB pixels, or raise an error with the reason.

The one decoder for inference, class folders and serving, so that they cannot drift apart. Needs no torch.
Pixels are uint8 (H, W, 3). Images that are not plain 8-bit RGB are converted:

- the EXIF orientation is applied, and only the first frame or page is used;
- transparent images are composited over white, the background that most of them are made for;
- 16-bit grey is divided by 257; float values are read as 0 to 1 or else as 0 to 255, and refused beyond that;
- colour profiles are ignored: the values are read as sRGB.

Known limit: JPEG has no checksums. A file that lacks pixels is refused, but changed bytes may decode to wrong pixels.
`structure` lists what else is not detected.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cifar10.images.bounded_file import BoundedFile
from cifar10.images.heic import read_heic
from cifar10.images.other_formats import is_heic, kind_of_photo
from cifar10.images.plain_png import read_plain_png
from cifar10.images.preprocessing import Preprocessing, Size, preprocessing
from cifar10.images.reading import ImageError as ImageError  # noqa: PLC0414 - part of this interface
from cifar10.images.reading import read_image_file
from cifar10.images.structure import lacks_pixels, png_lacks_pixels, unbounded_header, unfit_layout

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

MAX_PIXELS = 52_000_000
"""Largest width x height that is decoded: enough for photographs of 50 megapixels (8192 x 6144)."""

_BAND_PIXELS = 2**20
"""Pixels that are converted and resized at a time: a copy of 50 megapixels would take 200 MB."""
_LIMIT = f"{MAX_PIXELS // 10**6} megapixels"
REDUCED_SIDE = 8
"""Size of the short side of a JPEG that is decoded at reduced scale, over that of the square that it is resized to, at
least. Measured: benchmarks/results/reduced_jpeg_*.md."""
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")  # else Pillow may start Ghostscript
_READ_BY_PIXEL = frozenset(["BMP", "TIFF", "PPM"])  # or by run or strip; `unfit_layout` limits their number
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
"""EXIF orientation -> the transposition that makes the image upright."""
_SIDEWAYS = frozenset([5, 6, 7, 8])  # orientations whose transposition swaps rows and columns
_EIGHT_BIT_MODES = frozenset(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX", "LA", "PA", "RGBA", "RGBa"])


class EncodedImage:
    """An image whose header has been read and checked; its pixels are not decoded yet.

    Raises:
        ImageError: The image is damaged, in an unknown format, or too large.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise ImageError("empty file")
        self._data = data
        self._png = read_plain_png(data)
        with _image_errors(data):
            self._image = None if self._png else _open(data)

    @property
    def num_pixels(self) -> int:
        image = self._png or self._image
        assert image is not None
        return image.width * image.height

    def decode(self) -> Pixels:
        """Return the pixels as uint8 (H, W, 3).

        Raises:
            ImageError: The image is damaged.
        """
        with _image_errors(self._data):
            return np.array(_upright_rgb(self._load()))

    def decode_square(self, size: Size, reduced: bool = False) -> Pixels:
        """Return the same as `resize_image(self.decode(), size)`, uint8 (S, S, 3), without a copy of all pixels.

        Args:
            size: Height and width, or which part is resized how.
            reduced: Let libjpeg decode a JPEG at 1/2, 1/4 or 1/8 of its size, if its short side then still has
                `REDUCED_SIDE` times the pixels that it is resized to.

        Raises:
            ImageError: The image is damaged.
        """
        with _image_errors(self._data):
            rule = preprocessing(size)
            reduced_to = (rule.resize_size or rule.image_size) if reduced else None
            return np.array(_upright_square(self._load(reduced_to), rule))

    def _load(self, reduced_to: int | None = None) -> Image.Image:
        """Return the image with its pixels, none of them missing."""
        if self._png is not None:
            with contextlib.suppress(ValueError):  # the general path knows the reason
                image = self._png.decode()
                if png_lacks_pixels(image, self._data) is None:
                    return image
        image = self._image or _open(self._data)
        scale = 1 if reduced_to is None else _reduce(image, reduced_to)
        return _load(image, self._data, scale)


def decode_image(source: bytes | Path) -> Pixels:
    """Return the image in `source`, encoded bytes or a file, as uint8 (H, W, 3).

    The size in the header is checked before anything is decoded.

    Raises:
        ImageError: The image cannot be read, is damaged, in an unknown format, or too large.
    """
    return EncodedImage(source if isinstance(source, bytes) else read_image_file(source)).decode()


def resize_image(pixels: Pixels, size: Size) -> Pixels:
    """Return `pixels` cropped and resized, as (S, S, 3); `pixels` itself if nothing has to be done."""
    rule, (height, width) = preprocessing(size), pixels.shape[:2]
    if (width, height) == rule.resized((width, height)) == (rule.image_size, rule.image_size):
        return pixels
    return np.array(rule.apply(Image.fromarray(pixels)))


def resize_picture(picture: Image.Image, size: Size) -> Pixels:
    """Return a PIL image cropped and resized, as uint8 (S, S, 3): the same pixels as decoding its file.

    Raises:
        ImageError: The image is damaged, closed, empty, too large, or of an unsupported colour mode.
    """
    if not picture.width * picture.height:
        raise ImageError("it has no pixels")
    _refuse(_too_large(picture))
    with _image_errors(b""):
        return np.array(_upright_square(picture, preprocessing(size)))


def silence_pillow() -> None:
    """Ignore Pillow's warnings about metadata. Entry points call it once, before threads start.

    Faults in the pixels raise ImageError. Warning filters cannot be set per call, because they are not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def _image_errors(data: bytes) -> Iterator[None]:
    """Replace any error about the image `data` by an ImageError with a short reason."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit
        raise ImageError(f"too large: the limit is {_LIMIT}") from None
    except ModuleNotFoundError as error:  # pi_heif
        package = str(error.name).partition(".")[0].replace("_", "-")
        raise ImageError(f"reading it needs a package: python -m pip install {package}") from None
    except MemoryError:
        raise ImageError("too large for the memory that is left") from None
    except Exception as error:  # for damaged files, Pillow raises nearly anything, from KeyError to struct.error
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"damaged: {reason}") from None


def _unidentified(data: bytes) -> str:
    if (kind := kind_of_photo(data[:256])) is not None:
        return kind
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return f"damaged: a {name} header that cannot be read"
    return "not a PNG, JPEG, WebP, AVIF, HEIC, BMP, GIF, TIFF or PPM image"


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ImageError(reason)


def _too_large(image: Image.Image) -> str | None:
    width, height = image.size
    return f"too large: {width} x {height} pixels, the limit is {_LIMIT}" if width * height > MAX_PIXELS else None


def _open(data: bytes) -> Image.Image:
    _refuse(unbounded_header(data))
    image = read_heic(data) if is_heic(data[:256]) else Image.open(BoundedFile(data), formats=_FORMATS)
    _refuse(_too_large(image) or unfit_layout(image, data, MAX_PIXELS))
    if image.format in _READ_BY_PIXEL:
        image.fp = io.BytesIO(data)  # type: ignore[attr-defined]
    return image


def _reduce(image: Image.Image, size: int) -> int:
    """Let libjpeg divide the size of `image` by the number that is returned: 8, 4 or 2, or 1 if it is too small."""
    most = min(image.size) // (REDUCED_SIDE * size)
    scale = next((scale for scale in (8, 4, 2) if scale <= most), 1)
    if scale == 1 or not isinstance(image, JpegImageFile) or image.draft(None, _divided(image, scale)) is None:
        return 1
    return scale


def _divided(image: Image.Image, scale: int) -> tuple[int, int]:
    return image.width // scale, image.height // scale


def _load(image: Image.Image, data: bytes, scale: int) -> Image.Image:
    """Return the image with its pixels, none of them missing."""
    if image.format == "PNG":  # the only format that verify() checks; decoding alone ignores checksums
        intact = _PNG_END in data  # verify() does not check the last checksum
        try:
            image.verify()
        except ImageError:
            raise
        except Exception:
            intact = False
        if not intact:
            raise ImageError("damaged: a checksum is wrong or the end is missing")
        image = _open(data)  # verify() leaves the image unusable
    image.load()
    _refuse(lacks_pixels(image, data, scale))
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Return `image` upright and in RGB, converted band by band."""
    converted, turn = image, _TURNS.get(_orientation(image))
    if image.mode != "RGB" or image.has_transparency_data:
        convert = _conversion(image)
        converted = Image.new("RGB", image.size)
        for box in _bands(*image.size):
            converted.paste(convert(image.crop(box)), box)
    return converted if turn is None else converted.transpose(turn)


def _upright_square(image: Image.Image, rule: Preprocessing) -> Image.Image:
    """Return `rule.apply(_upright_rgb(image))`, without all pixels of the converted image in memory.

    Pillow resizes first the rows and then the columns, so rows can be resized band by band. For images that are
    higher than wide it may resize the columns first, and the last bits would differ.
    """
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
    num_columns, num_rows = rule.resized((width, height))
    if width * height <= _BAND_PIXELS or height > width or (width, height) == (num_columns, num_rows):
        return rule.apply(_upright_rgb(image))
    turn, convert = _TURNS.get(orientation), _conversion(image)
    left, right = rule.columns((width, height))
    narrow = Image.new("RGB", (num_columns, height))
    for box in _bands(width, height):
        part = convert(image.crop(_before_turn(box, orientation, image.size)))
        part = part if turn is None else part.transpose(turn)
        part = part.resize((num_columns, part.height), rule.resampling, box=(left, 0, right, part.height))
        narrow.paste(part, (0, box[1]))
    return rule.crop(narrow.resize((num_columns, num_rows), rule.resampling))


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts any part of `image` to RGB."""
    if image.mode == "F":
        low, high = _extremes(image)
        if not (low >= 0 and high <= 255):  # also if one is NaN
            raise ImageError(f"float values from {low:g} to {high:g}; expected 0 to 1, or 0 to 255")
        scale = 255 if high <= 1 else 1
        return lambda part: _grey(np.rint(np.asarray(part) * scale))
    if image.mode.startswith("I"):
        low, high = _extremes(image)
        if low < 0 or high > 65535:
            raise ImageError(f"grey values from {low} to {high}; expected 0 to 65535")
        return lambda part: _grey((np.asarray(part).astype(np.uint32) + 128) // 257)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(f"colour mode {image.mode} is not supported")
    return _over_white if image.has_transparency_data else lambda part: part.convert("RGB")


def _grey(levels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _over_white(part: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", part.size, "white")
    canvas.alpha_composite(part.convert("RGBA"))
    return canvas.convert("RGB")


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if there is one, which `getextrema` ignores."""
    found = [(values.min(), values.max()) for box in _bands(*image.size) for values in [np.asarray(image.crop(box))]]
    return np.min([low for low, _ in found]).item(), np.max([high for _, high in found]).item()


def _bands(width: int, height: int) -> Iterator[Box]:
    """Yield boxes of whole rows, from top to bottom."""
    rows = max(_BAND_PIXELS // width, 1)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Pillow itself makes a TIFF upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # unreadable metadata do not affect the pixels
        return 1
    return orientation if orientation in _TURNS else 1


def _before_turn(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """Return where the pixels of the upright `box` are in the image of `size` that is not upright yet."""
    left, top, right, bottom = box
    width, height = size
    if orientation in _SIDEWAYS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
