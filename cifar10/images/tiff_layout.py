"""Checks of the strips or tiles of a TIFF, before they are decoded: which are missing, and what decoding them costs."""

import math
import struct
from typing import Any, NamedTuple

from PIL import ExifTags, Image

MIN_PIECES = 50_000
"""Strips or tiles that any TIFF may have, beside one for each `PIXELS_OF_PIECE` pixels; each takes 5 microseconds."""
MAX_PIECES = 250_000
"""Most strips or tiles of any TIFF: 50 megapixels in tiles of 16 x 16 pixels are 200,000."""
PIXELS_OF_PIECE = 256
"""The smallest tiles that are usual have 16 x 16 pixels."""
MAX_REPEATED = 2**24
"""Most bytes that are read again because strips or tiles share them, as those of one colour may."""

_TAG = ExifTags.Base


class _Layout(NamedTuple):
    """How the pixels are divided."""

    kind: str
    """`strips` or `tiles`."""
    width: int
    length: int
    """Of a piece, in pixels."""
    offsets: tuple[Any, ...]
    num_bytes: tuple[Any, ...]


def excessive_pieces(data: bytes) -> str | None:
    """Return why Pillow would take too long to list the strips or tiles of the file `data`."""
    order, is_big = "<" if data.startswith(b"II") else ">", data[2:3] == b"\x2b"
    place, count, entry = (order + name for name in (("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")))
    try:
        [start] = struct.unpack_from(place, data, 8 if is_big else 4)
        [num_tags] = struct.unpack_from(count, data, start)
    except (struct.error, OverflowError):
        return None  # Pillow has the reason
    start, size = start + struct.calcsize(count), struct.calcsize(entry)
    end = start + size * min(num_tags, (len(data) - start) // size)
    tags = struct.iter_unpack(entry, memoryview(data)[start:end])
    most = max((number for tag, _, number, _ in tags if tag in (_TAG.StripOffsets, _TAG.TileOffsets)), default=0)
    return f"too large: {most:,} strips or tiles, the limit is {MAX_PIECES:,}" if most > MAX_PIECES else None


def unfit_tiff(image: Image.Image, size: int, max_pixels: int) -> str | None:
    """Return why `image`, opened from a file of `size` bytes, takes too long to decode or lacks strips or tiles."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if _TAG.DNGVersion in tags:
        return "a raw photo (DNG), which is not read; convert it to JPEG first"
    layout = _layout(image, tags)
    across, down = math.ceil(image.width / max(layout.width, 1)), math.ceil(image.height / max(layout.length, 1))
    if (reason := _excessive(image, layout, across * down, size, max_pixels)) is not None:
        return reason
    if getattr(image, "_compression", "raw") != "raw":  # libtiff reports missing pieces itself
        return None
    planes = len(image.getbands()) if _number(tags, _TAG.PlanarConfiguration) == 2 else 1
    needed, there = across * down * planes, sum(offset > 0 for offset in layout.offsets)
    return f"damaged: {there} of {needed} {layout.kind}" if there < needed else None


def _excessive(image: Image.Image, layout: _Layout, num_pieces: int, size: int, max_pixels: int) -> str | None:
    """Return why `image` takes too long to decode, although its own size is within the limit."""
    most = MIN_PIECES + image.width * image.height // PIXELS_OF_PIECE
    if len(image.tile) > most:  # type: ignore[attr-defined]
        return f"too large: more than {most:,} strips or tiles"
    piece = layout.width * layout.length
    if piece > max_pixels:
        return f"too large: a tile of {piece:,} pixels"
    if piece * num_pieces > 2 * max_pixels:
        return f"too large: {layout.kind} of {piece * num_pieces:,} pixels in all"
    if (num_bytes := sum(layout.num_bytes)) > size + MAX_REPEATED:
        return f"too large: {layout.kind} of {num_bytes:,} bytes, in a file of {size:,}"
    return None


def _layout(image: Image.Image, tags: Any) -> _Layout:
    if (offsets := tags.get(_TAG.TileOffsets)) is not None:
        width, length = _number(tags, _TAG.TileWidth), _number(tags, _TAG.TileLength)
        return _Layout("tiles", width, length, offsets, tags.get(_TAG.TileByteCounts, ()))
    length = min(_number(tags, _TAG.RowsPerStrip) or image.height, image.height)
    return _Layout("strips", image.width, length, tags.get(_TAG.StripOffsets, ()), tags.get(_TAG.StripByteCounts, ()))


def _number(tags: Any, tag: int) -> int:
    value: object = tags.get(tag, 0)
    return value if isinstance(value, int) else 0
