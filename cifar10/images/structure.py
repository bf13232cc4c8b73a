"""Checks of the encoded bytes of an image: missing pixels, and the cost of decoding.

Decoders fill in missing pixels with black (PNG, TIFF) or grey (JPEG), and report nothing. A file that is small in
bytes and in pixels can still take a minute to decode. The functions return the reason for a refusal, or None.

Not detected: a progressive JPEG that lacks some of its refinement (a coarser image), a JPEG that lacks its last few
pixels, a JPEG inside a TIFF that ends early, pixels that the compression of BMP skips on purpose.
"""

import io
import math
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from cifar10.images.reading import ImageError
from cifar10.images.tiff_layout import excessive_pieces, unfit_tiff

MAX_SCANNED_PIXELS = 10**9
"""Most pixels x scans of a JPEG: 20 scans of 50 megapixels, in 2 to 4 s. Progressive encoders write about ten scans."""
MAX_HEADERS = 2_000
"""Most segments of a JPEG before, and after, its first scan begins, and comments in a PPM. Pillow takes quadratic time
for the first and the last."""
MAX_PARSED = 2**21
"""Most bytes of quantisation tables and Photoshop data of a JPEG, which Pillow reads number by number."""
MAX_SURPLUS = 2**18
"""Most bytes of a compressed BMP beside its runs."""
MAX_PROFILES = 8
"""Most colour profiles of a PNG, of which it should have one: a thousand bytes may be inflated to a million."""

_PIECE = 65_536  # bytes, of compressed data and of pixels, that are inflated at a time
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type

_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PARSED = frozenset([0xDB, 0xED])  # quantisation tables, Photoshop data
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")  # others have no length: stuffing, restarts, fill bytes
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restarts and stuffed bytes belong to the scan
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_NOISE = bytes((37 * n * n + 11 * n + 5) % 255 for n in range(4096))  # no 0xFF, which would begin a marker


def unbounded_header(data: bytes) -> str | None:
    """Return why the header of the file `data` takes too long to parse."""
    if data.startswith(b"\xff\xd8"):
        return _excessive_headers(data) if len(data) > 2**18 else None
    if data[:2] in (b"P1", b"P2", b"P3") and (comments := data.count(b"#")) > MAX_HEADERS:
        return f"too large: {comments:,} comments, the limit is {MAX_HEADERS:,}"
    if data[:2] in (b"II", b"MM"):
        return excessive_pieces(data)
    if data.startswith(b"\x89PNG") and (profiles := data.count(b"iCCP")) > MAX_PROFILES:
        return f"too large: {profiles:,} colour profiles, the limit is {MAX_PROFILES}"
    return None


def unfit_layout(image: Image.Image, data: bytes, max_pixels: int) -> str | None:
    """Return why `image`, opened from `data` and not loaded yet, takes too long to decode or lacks strips or tiles."""
    if image.format in ("JPEG", "MPO"):
        return _excessive_scans(image, data)
    if image.format == "BMP":
        return _excessive_runs(image, data)
    return unfit_tiff(image, len(data), max_pixels) if image.format == "TIFF" else None


def lacks_pixels(image: Image.Image, data: bytes, scale: int = 1) -> str | None:
    """Return which pixels of a PNG or JPEG are missing in the file `data`, although `image` has been decoded.

    The common case is cheap: missing pixels are filled in with one colour, at the bottom right.

    Args:
        image: Decoded; its size is that of the file divided by `scale`.
        data: The file.
        scale: 1; 2, 4 or 8 for a JPEG that was decoded at reduced size.
    """
    if image.format in ("JPEG", "MPO"):
        return _jpeg_lacks(data) if _ends_flat(image, 8 // scale) else None
    return png_lacks_pixels(image, data) if image.format == "PNG" else None


# BMP


def _excessive_runs(image: Image.Image, data: bytes) -> str | None:
    """Return whether a compressed BMP has more runs, of at least two bytes, than pixels and ends of rows."""
    most = 4 * image.width * image.height + MAX_SURPLUS
    if image.tile[0][0] == "bmp_rle" and len(data) > most:  # type: ignore[attr-defined]
        return f"too large: {len(data):,} bytes for {image.width} x {image.height} pixels, the limit is {most:,}"
    return None


# PNG


def png_lacks_pixels(image: Image.Image, data: bytes) -> str | None:
    """Compare the inflated length with that of all rows. Surplus data are harmless, and libpng accepts them too."""
    last_row = image.im.crop((0, image.height - 1, image.width, image.height))
    interlaced = bool(image.info.get("interlace"))
    if not interlaced and last_row.getbbox(False) is not None:  # rows that were never written are zero
        return None
    depth, colour_type = struct.unpack_from("2B", data, 24)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    bits = depth * _PNG_CHANNELS[colour_type]
    expected = sum(_bytes_of_pass(image.width, image.height, bits, *grid) for grid in passes)
    found = _inflated_length(_png_data(data), expected)
    if found < expected:
        return f"damaged: pixels are missing ({found:,} of {expected:,} bytes)"
    return None


def _bytes_of_pass(width: int, height: int, bits: int, left: int, top: int, step_x: int, step_y: int) -> int:
    """Return the size of the pixels from (left, top) on in these steps; each row has one more byte, its filter."""
    columns, rows = len(range(left, width, step_x)), len(range(top, height, step_y))
    return rows * (1 + math.ceil(columns * bits / 8)) if columns else 0


def _png_data(data: bytes) -> Iterator[memoryview]:
    """Yield the compressed pixels in pieces, without the two bytes of zlib's header."""
    position, skip, view = 8, 2, memoryview(data)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            for start in range(position + 8, position + 8 + length, _PIECE):
                piece = view[start : min(start + _PIECE, position + 8 + length)]
                skipped = min(skip, len(piece))
                skip -= skipped
                yield piece[skipped:]
        position += length + 12


def _inflated_length(pieces: Iterator[memoryview], limit: int) -> int:
    """Return how many bytes `pieces` of a deflate stream inflate to, or a number >= `limit`, without storing them."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0  # raw: the checksum is after the last pixel
    for piece in pieces:
        pending: bytes | memoryview = piece
        while total < limit and not inflate.eof:
            found = len(inflate.decompress(pending, _PIECE))
            total += found
            pending = inflate.unconsumed_tail
            if not pending and found < _PIECE:
                break
    return total


# JPEG


def _ends_flat(image: Image.Image, block: int) -> bool:
    """Return whether the last pixels may have been filled in by libjpeg: they are of one colour.

    Args:
        image: Decoded.
        block: Height and width of the last block, in pixels; its single pixel must have the grey of missing ones.
    """
    width, height = image.size
    if block == 1:
        last = image.crop((width - 1, height - 1, width, height))
        return all(abs(level - 128) <= 2 for level in last.tobytes())
    left, top = max(width - 4, (width - 1) // block * block), max(height - 4, (height - 1) // block * block)
    corner = image.im.crop((left, top, width, height))
    if image.mode == "L":  # getcolors supports four bytes a pixel only
        low, high = corner.getextrema()
        return bool(low == high)
    return corner.getcolors(1) is not None


def _jpeg_lacks(data: bytes) -> str | None:
    """Insert noise after the last scan: it changes the image if the decoder reaches the end and needs more data.

    Both images are decoded at an eighth of the size, which takes little memory.
    """
    scans = _jpeg_scans(data)
    end = scans[-1][1] if scans else len(data)
    if _lacks_restarts(data, scans) or (scans and _shrunk(data) != _shrunk(data[:end] + _NOISE + data[end:])):
        return "damaged: pixels are missing"
    return None


def _shrunk(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft(image.mode, (max(image.width // 8, 1), max(image.height // 8, 1)))
    return image.tobytes()


def _excessive_headers(data: bytes) -> str | None:
    num_parsed = 0
    for num_headers, (marker, start, end) in enumerate(_jpeg_headers(data), 1):
        num_parsed += end - start if marker in _PARSED else 0
        if num_headers > MAX_HEADERS:
            return f"too large: too many header segments, the limit is {MAX_HEADERS:,}"
        if num_parsed > MAX_PARSED:
            return f"too large: too many tables or Photoshop data, the limit is {MAX_PARSED:,} bytes"
    return None


def _excessive_scans(image: Image.Image, data: bytes) -> str | None:
    end: int = image.fp.tell()  # type: ignore[attr-defined]  # Pillow has read the header of the first scan
    length: int = 8 + 2 * image.layers  # type: ignore[attr-defined]  # of a scan that contains all components
    if "progressive" not in image.info and data.startswith(b"\xff\xda", end - length):
        return None
    blocks = math.ceil(image.width / 8) * math.ceil(image.height / 8)
    most = min(MAX_SCANNED_PIXELS // (64 * blocks), MAX_HEADERS)
    if data.count(b"\xff\xda") > most and (scans := len(_jpeg_scans(data))) > most:  # metadata may look like scans
        return f"too large: {scans:,} scans of {image.width} x {image.height} pixels, the limit is {most:,}"
    return None


def _jpeg_headers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment with a length, up to and including the first scan's."""
    position = 2
    while found := _SEGMENT.search(data, position):  # Pillow skips stray bytes, too
        marker, start = data[found.end() - 1], found.end() + 2
        position = found.end() + int.from_bytes(data[found.end() : start], "big")
        if start > len(data):
            return
        yield marker, start, position
        if marker == _START_OF_SCAN:
            return


def _jpeg_scans(data: bytes) -> list[tuple[int, int]]:
    """Return (start, end) of the compressed data of each scan. A second image in the file is ignored.

    Raises:
        ImageError: There are too many scans and tables.
    """
    scans = []
    num_segments = 0
    position = next((end for marker, _, end in _jpeg_headers(data) if marker == _START_OF_SCAN), len(data))
    while found := _MARKER_IN_SCAN.search(data, position):
        end = position + len(data[position : found.start()].rstrip(b"\xff"))  # fill bytes belong to the marker
        scans.append((position, end))
        marker, start = data[found.end() - 1], found.end()
        while marker not in (_START_OF_SCAN, _END_OF_IMAGE):  # tables between the scans
            num_segments += 1
            start += int.from_bytes(data[start : start + 2], "big")
            if data[start : start + 1] != b"\xff" or start + 2 > len(data):
                return scans
            if num_segments > MAX_HEADERS:
                raise ImageError(f"too large: too many tables between scans, the limit is {MAX_HEADERS:,}")
            marker, start = data[start + 1], start + 2
        if marker == _END_OF_IMAGE:
            return scans
        if len(scans) > MAX_HEADERS:
            raise ImageError(f"too large: too many scans, the limit is {MAX_HEADERS:,}")
        position = start + int.from_bytes(data[start : start + 2], "big")
    return scans


def _lacks_restarts(data: bytes, scans: list[tuple[int, int]]) -> bool:
    """Return whether an image of one scan with restart markers has fewer of them than its size requires."""
    segments = {marker: (start, end) for marker, start, end in _jpeg_headers(data)}
    frame = next((segments[marker] for marker in segments if marker in _START_OF_FRAME), None)
    if frame is None or _RESTART_INTERVAL not in segments:
        return False
    (interval,) = struct.unpack_from(">H", data, segments[_RESTART_INTERVAL][0])
    height, width, components = struct.unpack_from(">HHB", data, frame[0] + 1)
    if not interval or len(scans) != 1 or data[segments[_START_OF_SCAN][0]] != components:
        return False
    factors = [data[frame[0] + 7 + 3 * number] for number in range(components)]
    across, down = max(factor >> 4 for factor in factors), max(factor & 15 for factor in factors)
    if components == 1:
        across = down = 1
    blocks = math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    found = len(_RESTART.findall(data, *scans[0]))
    return bool(found < math.ceil(blocks / interval) - 1)
