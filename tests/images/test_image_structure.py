"""Pictures that lack pixels are told from good ones that look like them, at little cost."""

import io
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar10.images import structure
from cifar10.images.decode import ImageError, decode_image
from tests.malformed import (
    encode,
    jpeg_ending_early,
    jpeg_of_many_scans,
    picture,
    png,
    png_chunk,
    rows_of_passes,
    tiff,
    tiff_file,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, for which `infer` calls silence_pillow()


def rows(pixels: NDArray[np.uint8]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (5, 8), (33, 17)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_black_pngs_of_any_size_and_mode_are_whole(size: tuple[int, int], mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    assert decode_image(buffer.getvalue()).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(("depth", "colour_type"), [(1, 0), (2, 0), (4, 3), (8, 3), (16, 0), (8, 4), (16, 2), (16, 6)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_is_whole_with_all_its_rows_and_damaged_without_the_last(
    depth: int, colour_type: int, interlaced: bool
) -> None:
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    black = np.zeros((13, 11, 3), np.uint8)
    widths = [(len(row) - 1) // 3 for row in rows_of_passes(black)] if interlaced else [11] * 13
    data = [bytes(1 + -(-width * bits // 8)) for width in widths]
    chunk = png_chunk(b"PLTE", bytes(3)) if colour_type == 3 else b""
    for kept in (data, data[:-1]):
        whole = png(11, 13, zlib.compress(b"".join(kept)), depth, colour_type, interlaced)
        whole = whole[:33] + chunk + whole[33:]
        if len(kept) == len(data):
            assert (decode_image(whole) == 0).all() or colour_type in (4, 6)  # their alpha is 0, too
        else:
            with pytest.raises(ImageError, match="pixels are missing"):
                decode_image(whole)


def test_an_interlaced_png_has_the_pixels_that_went_in() -> None:
    data = png(32, 32, zlib.compress(b"".join(rows_of_passes(picture()))), interlaced=True)
    np.testing.assert_array_equal(decode_image(data), picture())


def test_rows_that_lack_above_an_interlaced_last_row_are_found() -> None:
    pixels = picture(size=33)  # its last row comes in an early pass
    data = png(33, 33, zlib.compress(b"".join(rows_of_passes(pixels)[:-5])), interlaced=True)
    with pytest.raises(ImageError, match="pixels are missing"):
        decode_image(data)


def test_a_png_with_more_data_than_pixels_is_taken() -> None:
    np.testing.assert_array_equal(decode_image(png(32, 32, zlib.compress(rows(picture()) + b"more"))), picture())


def test_measuring_a_png_takes_neither_memory_nor_more_than_its_pixels() -> None:
    pieces = iter([memoryview(zlib.compress(bytes(10**7))[2:])])
    tracemalloc.start()
    found = structure._inflated_length(pieces, limit=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 10**6 <= found < 1.1 * 10**6 and peak < 2**20


def test_missing_rows_are_found_in_memory_that_was_used_before() -> None:
    for _ in range(20):
        assert decode_image(encode(np.full((32, 32, 3), 255, np.uint8), "PNG")).all()
        with pytest.raises(ImageError, match="pixels are missing"):
            decode_image(png(32, 32, zlib.compress(rows(picture())[:97])))


FLAT_BELOW = np.concatenate([picture(size=64), np.full((64, 64, 3), 255, np.uint8)])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("size", [(128, 64), (127, 63), (121, 57), (16, 16)])
def test_jpegs_that_end_in_one_colour_are_whole(size: tuple[int, int], options: dict[str, Any]) -> None:
    pixels = FLAT_BELOW[-size[0] :, : size[1]]
    decoded = decode_image(encode(pixels, "JPEG", quality=90, **options))
    assert np.abs(decoded.astype(int) - pixels).mean() < 40 and (decoded[-1, -1] > 250).all()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_flat_jpegs_of_other_modes_are_whole(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40)).save(buffer, "JPEG")
    assert decode_image(buffer.getvalue()).shape == (40, 40, 3)


@pytest.mark.parametrize("part", [0.01, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}, {"subsampling": 0}])
def test_a_jpeg_whose_scan_ends_early_is_refused(part: float, options: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="damaged: "):
        decode_image(jpeg_ending_early(part, **options))


def test_a_jpeg_followed_by_other_bytes_is_whole() -> None:
    white = encode(np.full((40, 40, 3), 255, np.uint8), "JPEG")
    assert (decode_image(white + b"\xff\xd8 appended by a phone \xff\xda" * 3) == 255).all()


def test_scans_in_proportion_to_the_size_are_taken() -> None:
    assert decode_image(jpeg_of_many_scans(size=64, scans=300)).shape == (64, 64, 3)


def test_work_without_bound_is_refused_at_once() -> None:
    data = jpeg_of_many_scans(size=2048, scans=1000)
    started = time.process_time()
    with pytest.raises(ImageError, match=r"too large: 1,0.. scans of 2048 x 2048 pixels, the limit is 238"):
        decode_image(data)
    assert time.process_time() - started < 0.5  # decoding takes more than ten


MILLION = zlib.compress(bytes(10**6))
JPEG_TABLES = b"\xff\xdb" + (2 + 65_000).to_bytes(2, "big") + (b"\0" + bytes(range(1, 65))) * 1000
SLOW: dict[str, Callable[[bytes], bytes]] = {
    "png pieces": lambda good: good[:33] + png_chunk(b"IDAT", b"") * 800_000 + good[33:],
    "png chunks": lambda good: good[:33] + png_chunk(b"teSt", b"") * 800_000 + good[33:],
    "png plain chunks": lambda good: good[:33] + png_chunk(b"gAMA", bytes(4)) * 600_000 + good[33:],
    "png profiles": lambda good: (
        good[:33] + png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6))) * 9000 + good[33:]
    ),
    "png text": lambda good: good[:-12] + png_chunk(b"tEXt", b"a\0b") * 600_000 + good[-12:],
    "jpeg segments": lambda good: good[:2] + b"\xff\xe2\0\2" * 2_500_000 + good[2:],
    "jpeg restarts": lambda good: good[:2] + b"\xff\xd0" * 5_000_000 + good[2:],
    "jpeg tables": lambda good: good[:20] + JPEG_TABLES * 150 + good[20:],
    "gif blocks": lambda good: good[: good.index(b",\0\0\0\0")] + bytes(10**7) + good[good.index(b",\0\0\0\0") :],
    "ppm header": lambda good: b"P6" + b" " * 10**7 + good[2:],
    "tiff strips": lambda good: tiff_file({256: [9], 257: [9], 273: [8] * 2_000_000}, good),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_small_image_in_a_file_of_10_megabytes_takes_less_than_half_a_second(kind: str) -> None:
    data = SLOW[kind](encode(picture(), kind.split(maxsplit=1)[0]))
    started = time.process_time()
    with pytest.raises(ImageError, match=r"too large: .* the limit is "):
        decode_image(data)
    assert time.process_time() - started < 0.5


def test_a_flat_jpeg_has_no_more_scans_than_its_blocks_allow() -> None:
    whole = encode(np.full((1, 65_500), 90, np.uint8), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match=r"too large: 1,9.. scans of 65500 x 1 pixels, the limit is 1,908"):
        decode_image(whole[:last] + whole[last:-2] * 1950 + whole[-2:])


def test_what_real_images_have_in_parts_is_below_the_limits() -> None:
    compressed = zlib.compress(rows(picture(size=1200)), 0)
    pieces = [png_chunk(b"IDAT", compressed[at : at + 4096]) for at in range(0, len(compressed), 4096)]
    good = png(1200, 1200, b"")
    np.testing.assert_array_equal(decode_image(good[:33] + b"".join(pieces) + good[-12:]), picture(size=1200))
    photo = encode(picture(), "JPEG")
    assert decode_image(photo[:2] + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 150 + photo[2:]).shape == (32, 32, 3)


@pytest.mark.parametrize("tile", [None, 32])
def test_an_uncompressed_tiff_with_all_its_pieces_is_whole(tile: int | None) -> None:
    np.testing.assert_array_equal(decode_image(tiff(picture(size=64), kept=4, tile=tile)), picture(size=64))
