"""Files that no decoder should take for an image, each with the reason a person should read. Made here, not stored.

Run it to write them into a folder: python -m tests.malformed FOLDER
"""

import gzip
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOT_AN_IMAGE = "^not a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM image$"
DAMAGED = "^damaged: "
CHECKSUM = "^damaged: a checksum is wrong or the end is missing$"
CUT_OFF = "^damaged: .*truncated"
TOO_LARGE = "^too large: .* 52 megapixels$"


class Malformed(NamedTuple):
    """A file's content, and a regular expression that its refusal must match."""

    name: str
    data: bytes
    reason: str


def picture(seed: int = 0, size: int = 32) -> NDArray[np.uint8]:
    """Return a noisy gradient, uint8 (size, size, 3), that every format has to spend many bytes on."""
    noise = np.random.default_rng(seed).integers(0, 64, (size, size, 3))
    ramp = np.linspace(0, 190, size)[:, None, None]
    return (noise + ramp).astype(np.uint8)


def encode(pixels: NDArray[Any], image_format: str, **options: Any) -> bytes:
    """Return `pixels` as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its right length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, compressed: bytes, depth: int = 8, colour_type: int = 2) -> bytes:
    """Return a PNG of these header values, whatever its `compressed` pixels are."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", compressed) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks


def png_bomb(width: int, height: int) -> bytes:
    """Return a valid black-and-white PNG that is tiny as a file and huge when decoded."""
    press = zlib.compressobj(9)
    row = bytes(width // 8 + 1)
    return png(width, height, b"".join(press.compress(row) for _ in range(height)) + press.flush(), 1, 0)


def flip_byte(data: bytes, position: int) -> bytes:
    """Return `data` with all bits of one byte turned over."""
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def malformed_images() -> list[Malformed]:
    """Return all kinds, by name."""
    makers: list[Callable[[], list[Malformed]]] = [_not_images, _pngs, _jpegs, _gifs_and_webps, _bmps_and_ppms, _tiffs]
    return sorted(item for make in makers for item in make())


def _not_images() -> list[Malformed]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cat.png", encode(picture(), "PNG"))
    array = io.BytesIO()
    np.save(array, picture())
    return [
        Malformed("empty.png", b"", "^empty file$"),
        Malformed("one_byte.png", b"\x89", NOT_AN_IMAGE),
        Malformed("zeros.png", bytes(4096), NOT_AN_IMAGE),
        Malformed("noise.jpg", np.random.default_rng(1).bytes(4096), NOT_AN_IMAGE),
        Malformed("text.png", "a cat, honestly \N{CAT}\n".encode(), NOT_AN_IMAGE),
        Malformed("page.jpg", b"<!DOCTYPE html><title>404 Not Found</title>", NOT_AN_IMAGE),
        Malformed("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NOT_AN_IMAGE),
        Malformed("document.png", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", NOT_AN_IMAGE),
        Malformed("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", NOT_AN_IMAGE),
        Malformed("archive.png", archive.getvalue(), NOT_AN_IMAGE),
        Malformed("zipped.png", gzip.compress(encode(picture(), "PNG")), NOT_AN_IMAGE),
        Malformed("array.png", array.getvalue(), NOT_AN_IMAGE),
        Malformed("icon.png", encode(picture(), "ICO"), NOT_AN_IMAGE),
        Malformed("sound.webp", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24), DAMAGED),
    ]


def _pngs() -> list[Malformed]:
    good = encode(picture(), "PNG")
    data_start = good.index(b"IDAT") + 4
    whole = zlib.compress(b"".join(b"\0" + row.tobytes() for row in picture()))
    return [
        Malformed("png_signature_only.png", PNG_SIGNATURE, DAMAGED),
        Malformed("png_header_only.png", good[:33], DAMAGED),
        Malformed("png_half.png", good[: len(good) // 2], CHECKSUM),
        Malformed("png_last_byte_missing.png", good[:-1], CHECKSUM),
        Malformed("png_end_missing.png", good[:-12], CHECKSUM),
        Malformed("png_flipped_header_byte.png", flip_byte(good, 20), DAMAGED),
        Malformed("png_flipped_data_byte.png", flip_byte(good, data_start + 900), CHECKSUM),
        Malformed("png_flipped_checksum.png", flip_byte(good, len(good) - 14), CHECKSUM),
        Malformed("png_broken_compression.png", png(32, 32, flip_byte(whole, 40)), DAMAGED),
        Malformed("png_no_data.png", png(32, 32, b""), CUT_OFF),
        Malformed("png_zero_width.png", png(0, 32, whole), DAMAGED),
        Malformed("png_unknown_colour_type.png", png(32, 32, whole, colour_type=7), DAMAGED),
        Malformed("png_unknown_depth.png", png(32, 32, whole, depth=5), DAMAGED),
        Malformed("png_bomb.png", png_bomb(20_000, 20_000), TOO_LARGE),
        Malformed("png_small_bomb.png", png_bomb(7_300, 7_300), TOO_LARGE),
        Malformed("png_two_billion_wide.png", png(2**31 - 1, 2**31 - 1, whole), TOO_LARGE),
    ]


def _jpegs() -> list[Malformed]:
    good = encode(picture(), "JPEG", quality=95)
    tables, frame, scan = (good.index(marker) for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"))
    return [
        Malformed("jpeg_start_only.jpg", good[:3], DAMAGED),
        Malformed("jpeg_cut_in_header.jpg", good[:100], DAMAGED),
        Malformed("jpeg_half.jpg", good[: len(good) // 2], CUT_OFF),
        Malformed("jpeg_no_scan.jpg", good[:scan], DAMAGED),
        Malformed("jpeg_no_tables.jpg", good[:tables] + good[frame:], DAMAGED),
    ]


def _gifs_and_webps() -> list[Malformed]:
    gif, webp = encode(picture(), "GIF"), encode(picture(), "WEBP", lossless=True)
    return [
        Malformed("gif_signature_only.gif", gif[:6], DAMAGED),
        Malformed("gif_no_frame.gif", gif[:13], DAMAGED),
        Malformed("gif_half.gif", gif[: len(gif) * 3 // 4], CUT_OFF),
        Malformed("webp_signature_only.webp", webp[:12], DAMAGED),
        Malformed("webp_half.webp", webp[: len(webp) // 2], DAMAGED),
        Malformed("webp_flipped_byte.webp", flip_byte(webp, 40), DAMAGED),
    ]


def _bmps_and_ppms() -> list[Malformed]:
    bmp, ppm = encode(picture(), "BMP"), encode(picture(), "PPM")
    return [
        Malformed("bmp_signature_only.bmp", bmp[:2], DAMAGED),
        Malformed("bmp_half.bmp", bmp[: len(bmp) // 2], CUT_OFF),
        Malformed("bmp_huge.bmp", bmp[:18] + struct.pack("<ii", 2**30, 2**30) + bmp[26:], TOO_LARGE),
        Malformed("bmp_unknown_depth.bmp", bmp[:28] + struct.pack("<H", 77) + bmp[30:], DAMAGED),
        Malformed("ppm_half.ppm", ppm[: len(ppm) // 2], CUT_OFF),
        Malformed("ppm_huge.ppm", b"P6 99999 99999 255\n" + bytes(99), TOO_LARGE),
        Malformed("ppm_no_size.ppm", b"P6\nmany pixels\n255\n", DAMAGED),
    ]


def _tiffs() -> list[Malformed]:
    good = encode(picture(), "TIFF")
    lzw = encode(picture(), "TIFF", compression="tiff_lzw")
    with_nan = np.full((32, 32), 0.5, np.float32)
    with_nan[3, 4] = np.nan
    lab = io.BytesIO()
    Image.new("LAB", (32, 32)).save(lab, "TIFF")
    return [
        Malformed("tiff_signature_only.tif", good[:4], DAMAGED),
        Malformed("tiff_half.tif", good[: len(good) // 2], DAMAGED),
        Malformed("tiff_compressed_half.tif", lzw[: len(lzw) // 2], DAMAGED),
        Malformed("tiff_not_a_number.tif", encode(with_nan, "TIFF"), "^float values from nan to nan"),
        Malformed("tiff_float_range.tif", encode(np.float32(1e4) * with_nan[:2], "TIFF"), "^float values from 5000"),
        Malformed("tiff_integer_range.tif", encode(np.full((9, 9), 70_000, np.int32), "TIFF"), "^grey values from 7"),
        Malformed("tiff_lab.tif", lab.getvalue(), "^colour mode LAB is not supported$"),
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for malformed in malformed_images():
        (folder / malformed.name).write_bytes(malformed.data)
