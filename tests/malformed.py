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
NOT_AN_IMAGE = "^not a PNG, JPEG, WebP, AVIF, HEIC, BMP, GIF, TIFF or PPM image$"
DAMAGED = "^damaged: "
CHECKSUM = "^damaged: a checksum is wrong or the end is missing$"
CUT_OFF = "^damaged: .*truncated"
MISSING = "^damaged: pixels are missing"
TOO_LARGE = "^too large: .* 52 megapixels$"
TOO_MANY = "^too large: .* the limit is "
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


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


def png(
    width: int, height: int, compressed: bytes, depth: int = 8, colour_type: int = 2, interlaced: bool = False
) -> bytes:
    """Return a PNG of these header values, whatever its `compressed` pixels are."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", compressed) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks


def rows_of_passes(pixels: NDArray[np.uint8]) -> list[bytes]:
    """Return the rows of a PNG of `pixels` (H, W, 3), unfiltered, in the order of its seven interlace passes."""
    passes = [pixels[top::step_y, left::step_x] for left, top, step_x, step_y in ADAM7]
    return [b"\0" + row.tobytes() for part in passes for row in part if row.size]


def jpeg_ending_early(part: float, **options: Any) -> bytes:
    """Return a JPEG whose first scan ends after a `part` of its data, with the end of the file in its place."""
    whole = encode(picture(size=64), "JPEG", quality=95, **options)
    start = whole.index(b"\xff\xda") + 14
    end = whole.index(b"\xff\xc4", start) if options.get("progressive") else len(whole) - 2
    return whole[: start + int((end - start) * part)].rstrip(b"\xff") + b"\xff\xd9"


def jpeg_of_many_scans(size: int, scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    whole = encode(np.full((size, size, 3), 90, np.uint8), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def tiff(pixels: NDArray[np.uint8], kept: int, tile: int | None = None) -> bytes:
    """Return an uncompressed TIFF of `pixels` (H, W, 3) with its first `kept` strips of 16 rows, or tiles."""
    height, width = pixels.shape[:2]
    if tile is None:
        pieces = [pixels[top : top + 16].tobytes() for top in range(0, height, 16)][:kept]
        layout = {273: [], 278: [16], 279: [len(piece) for piece in pieces]}
    else:
        corners = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)][:kept]
        pieces = [pixels[top : top + tile, left : left + tile].tobytes() for top, left in corners]
        layout = {322: [tile], 323: [tile], 324: [], 325: [len(piece) for piece in pieces]}
    layout[273 if tile is None else 324] = [8 + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    tags = {256: [width], 257: [height], 258: [8, 8, 8], 259: [1], 262: [2], 277: [3], **layout}
    return tiff_file(tags, b"".join(pieces))


def tiff_file(tags: dict[int, list[int]], body: bytes) -> bytes:
    """Return a TIFF of these tags, all of 32 bits, whose `body` begins at byte 8."""
    directory, values = struct.pack("<H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = 8 + len(body) + 2 + 12 * len(tags) + 4 + len(values)
        directory += struct.pack("<HHI", tag, 4, len(numbers))
        directory += packed if len(packed) == 4 else struct.pack("<I", place)
        values += b"" if len(packed) == 4 else packed
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + bytes(4) + values


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
        Malformed("heic_without_image.jpg", b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(99), DAMAGED),
        Malformed("avif_without_image.jpg", b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1" + bytes(99), DAMAGED),
        Malformed("clip.jpg", b"\0\0\0\x14ftypqt  " + bytes(99), "^a video, "),
        Malformed("sound.webp", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24), "^a sound or video"),
    ]


def _pngs() -> list[Malformed]:
    good = encode(picture(), "PNG")
    data_start = good.index(b"IDAT") + 4
    rows = b"".join(b"\0" + row.tobytes() for row in picture())
    whole, interlaced = zlib.compress(rows), rows_of_passes(picture())
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6), 9))
    return [
        Malformed("png_one_row.png", png(32, 32, zlib.compress(rows[:97])), r"missing \(97 of 3,104 bytes\)$"),
        Malformed("png_half_of_last_row.png", png(32, 32, zlib.compress(rows[:-48])), CUT_OFF),
        *(
            Malformed(name, png(32, 32, zlib.compress(b"".join(interlaced[:kept])), interlaced=True), MISSING)
            for name, kept in {"png_one_pass.png": 4, "png_half_a_pass.png": -8, "png_interlaced_row.png": -1}.items()
        ),
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
        Malformed("png_many_chunks.png", good[:33] + png_chunk(b"teSt", b"") * 50_000 + good[33:], TOO_MANY),
        Malformed("png_many_empty_pieces.png", good[:33] + png_chunk(b"IDAT", b"") * 50_000 + good[33:], TOO_MANY),
        Malformed("png_many_profiles.png", good[:33] + profile * 90 + good[33:], TOO_MANY),
        Malformed("png_two_billion_wide.png", png(2**31 - 1, 2**31 - 1, whole), TOO_LARGE),
    ]


def _jpegs() -> list[Malformed]:
    good = encode(picture(), "JPEG", quality=95)
    tables, frame, scan = (good.index(marker) for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"))
    return [
        Malformed("jpeg_early_end.jpg", jpeg_ending_early(0.5), MISSING),
        Malformed("jpeg_early_end_restarts.jpg", jpeg_ending_early(0.5, restart_marker_rows=1), MISSING),
        Malformed("jpeg_early_end_progressive.jpg", jpeg_ending_early(0.5, progressive=True), MISSING),
        Malformed("jpeg_many_scans.jpg", jpeg_of_many_scans(2048, 300), "^too large: .* scans of 2048 x 2048 pixels"),
        Malformed("jpeg_many_headers.jpg", good[:2] + b"\xff\xe1\0\x0cExif\0\0II*\0" * 30_000 + good[2:], TOO_MANY),
        Malformed("jpeg_many_comments.jpg", good[:2] + b"\xff\xfe\0\2" * 70_000 + good[2:], TOO_MANY),
        Malformed("jpeg_many_fill_bytes.jpg", good[:2] + b"\xff" * 50_000 + good[2:], TOO_MANY),
        Malformed("jpeg_many_small_scans.jpg", jpeg_of_many_scans(8, 20_000), TOO_MANY),
        Malformed("jpeg_start_only.jpg", good[:3], DAMAGED),
        Malformed("jpeg_cut_in_header.jpg", good[:100], DAMAGED),
        Malformed("jpeg_half.jpg", good[: len(good) // 2], CUT_OFF),
        Malformed("jpeg_no_scan.jpg", good[:scan], DAMAGED),
        Malformed("jpeg_no_tables.jpg", good[:tables] + good[frame:], DAMAGED),
    ]


def _gifs_and_webps() -> list[Malformed]:
    gif, webp = encode(picture(), "GIF"), encode(picture(), "WEBP", lossless=True)
    start = gif.index(b",\0\0\0\0")
    return [
        Malformed("gif_signature_only.gif", gif[:6], DAMAGED),
        Malformed("gif_no_frame.gif", gif[:13], DAMAGED),
        Malformed("gif_half.gif", gif[: len(gif) * 3 // 4], CUT_OFF),
        Malformed("gif_many_blocks.gif", gif[:start] + b"!\xfe" + b"\1a" * 40_000 + b"\0" + gif[start:], TOO_MANY),
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
        Malformed("bmp_many_ends_of_row.bmp", bmp[:30] + b"\1" + bmp[31:54] + bytes(300_000), TOO_MANY),
        Malformed("bmp_unknown_depth.bmp", bmp[:28] + struct.pack("<H", 77) + bmp[30:], DAMAGED),
        Malformed("pgm_many_comments.pgm", b"P2 2 2 9\n" + b"#\n" * 100_000 + b"1 2 3 4\n", TOO_MANY),
        Malformed("ppm_long_comment.ppm", b"P6 #" + b"a" * 50_000 + ppm[2:], TOO_MANY),
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
        Malformed("tiff_three_strips_of_four.tif", tiff(picture(size=64), kept=3), "^damaged: 3 of 4 strips$"),
        Malformed("tiff_two_tiles_of_four.tif", tiff(picture(size=64), kept=2, tile=32), "^damaged: 2 of 4 tiles$"),
        *_slow_tiffs(),
        Malformed("tiff_signature_only.tif", good[:4], DAMAGED),
        Malformed("tiff_half.tif", good[: len(good) // 2], DAMAGED),
        Malformed("tiff_compressed_half.tif", lzw[: len(lzw) // 2], DAMAGED),
        Malformed("tiff_not_a_number.tif", encode(with_nan, "TIFF"), "^float values from nan to nan"),
        Malformed("tiff_float_range.tif", encode(np.float32(1e4) * with_nan[:2], "TIFF"), "^float values from 5000"),
        Malformed("tiff_integer_range.tif", encode(np.full((9, 9), 70_000, np.int32), "TIFF"), "^grey values from 7"),
        Malformed("tiff_lab.tif", lab.getvalue(), "^colour mode LAB is not supported$"),
    ]


def _slow_tiffs() -> list[Malformed]:
    """Return TIFFs of few pixels: with tiles of many, with many strips, with strips that share their bytes."""
    grey = {258: [8], 262: [1], 277: [1]}
    tiles = {256: [6400], 257: [1], 259: [8], 322: [16], 323: [3_000_000], 324: [8] * 400, 325: [60] * 400}
    num_strips = 60_000
    strips = {256: [1], 257: [num_strips], 259: [1], 273: [8] * num_strips, 278: [1], 279: [1] * num_strips}
    shared = {256: [32], 257: [1000], 259: [8], 273: [8] * 1000, 278: [1], 279: [40_000] * 1000}
    return [
        Malformed("tiff_tall_tiles.tif", tiff_file({**grey, **tiles}, bytes(60)), "^too large: tiles of "),
        Malformed("tiff_many_strips.tif", tiff_file({**grey, **strips}, bytes(60)), "^too large: more than 50,234 "),
        Malformed("tiff_shared_strips.tif", tiff_file({**grey, **shared}, bytes(40_000)), "^too large: strips of "),
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for malformed in malformed_images():
        (folder / malformed.name).write_bytes(malformed.data)
