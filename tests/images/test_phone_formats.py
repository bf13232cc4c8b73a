"""Photos as telephones make them: HEIC, AVIF and MPO."""

import base64
import io
import struct
import sys
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar10.images.decode import EncodedImage, ImageError, decode_image
from tests.malformed import encode, picture

HEIC = base64.b64decode("""
AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA
AAIAAQAAAAABxQABAAAAAAAAAGkAAgAAAAACLgABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQAC
AABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAA
AAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0A
BoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAAEFgQIDBIUAAAAaaXJlZgAAAAAAAAAO
Y2RzYwACAAEAAQAAAJVtZGF0AAAAZSgBr1jblRGFcoul48p3RuA0gH6NNdQM8FNgb3fhr/7powdCpXKHhhfne7DYxf+RInVymM0VIMqwZ4463a3iwJO9
8nTyuB/nbPHJ5trIEyv39ET4ZRNKsZSZB+H1blKyDdVG84XwAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA
""")
"""96 x 64 pixels, red and blue with a white corner, stored lying on its side: upright it is 64 x 96."""


def test_a_heic_photo_is_decoded_upright() -> None:
    pixels = decode_image(HEIC)
    assert pixels.shape == (96, 64, 3)
    assert (pixels[4, -4] > 240).all()  # the white corner, at the top right
    red, blue = pixels[30, 20], pixels[-10, 20]
    assert red[0] > 200 and red[2] < 60 and blue[0] < 60 and blue[2] > 200


@pytest.mark.parametrize("length", [20, 100, 255, len(HEIC) - 50, len(HEIC) - 1])
def test_a_heic_photo_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ImageError, match="damaged: "):
        decode_image(HEIC[:length])


def test_a_heic_photo_that_claims_to_be_huge_is_refused_by_its_header() -> None:
    at = HEIC.index(b"ispe") + 8
    started = time.process_time()
    with pytest.raises(ImageError, match="too large: "):
        decode_image(HEIC[:at] + struct.pack(">II", 30_000, 30_000) + HEIC[at + 8 :])
    assert time.process_time() - started < 0.2


def test_without_the_package_the_reason_is_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.delitem(sys.modules, "pi_heif.as_plugin", raising=False)
    with pytest.raises(ImageError, match=r"^reading it needs a package: python -m pip install pi-heif$"):
        decode_image(HEIC)


def test_an_avif_picture_is_decoded_and_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.repeat(np.repeat(picture(size=4), 16, axis=0), 24, axis=1))
    assert decode_image(saved(lying, "AVIF", exif=exif)).shape == (96, 64, 3)
    whole = saved(lying, "AVIF", quality=90)
    assert np.abs(decode_image(whole).astype(int) - np.asarray(lying)).mean() < 6
    for length in (len(whole) - 1, len(whole) // 2, 40):
        with pytest.raises(ImageError, match="damaged: "):
            decode_image(whole[:length])


def test_of_an_mpo_the_first_photo_is_taken_and_missing_pixels_are_found() -> None:
    first, second = np.full((64, 64, 3), 30, np.uint8), np.full((64, 64, 3), 200, np.uint8)
    whole = saved(Image.fromarray(first), "MPO", save_all=True, append_images=[Image.fromarray(second)])
    assert np.abs(decode_image(whole).astype(int) - 30).max() < 4
    noisy = saved(Image.fromarray(picture(size=64)), "MPO", save_all=True, append_images=[Image.fromarray(second)])
    with pytest.raises(ImageError, match="damaged: "):
        decode_image(noisy[:1200])


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture without fine detail, as a photo of many megapixels is."""
    small = Image.fromarray(picture(seed=1, size=9))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width"), [(1024, 1300), (2500, 2100), (600, 513)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_large_jpeg_at_reduced_size_has_nearly_the_same_pixels(
    height: int, width: int, options: dict[str, Any]
) -> None:
    data = encode(smooth(height, width), "JPEG", quality=90, **options)
    full = EncodedImage(data).decode_square(32)
    reduced = EncodedImage(data).decode_square(32, reduced=True)
    difference = np.abs(full.astype(int) - reduced)
    assert difference.max() <= 2 and difference.mean() < 0.5


def test_what_is_not_a_large_jpeg_is_decoded_in_full() -> None:
    pixels = smooth(511, 900)
    for data in (encode(pixels, "JPEG", quality=90), encode(smooth(1024, 1024), "PNG")):
        np.testing.assert_array_equal(
            EncodedImage(data).decode_square(32, reduced=True), EncodedImage(data).decode_square(32)
        )


@pytest.mark.parametrize("size", [520, 1030, 2060])  # at 1/2, 1/4 and 1/8
@pytest.mark.parametrize("part", [0.3, 0.9])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_large_jpeg_that_lacks_pixels_is_refused_at_reduced_size_too(
    size: int, part: float, options: dict[str, Any]
) -> None:
    whole = encode(smooth(size, size), "JPEG", quality=90, **options)
    start = whole.index(b"\xff\xda") + 14
    end = whole.index(b"\xff\xc4", start) if options.get("progressive") else len(whole) - 2
    early = whole[: start + int((end - start) * part)].rstrip(b"\xff") + b"\xff\xd9"
    EncodedImage(whole).decode_square(32, reduced=True)
    with pytest.raises(ImageError, match="damaged: "):
        EncodedImage(early).decode_square(32, reduced=True)


@pytest.mark.parametrize("grey", [127, 128, 129])
def test_a_large_jpeg_of_the_grey_of_missing_pixels_is_whole(grey: int) -> None:
    data = encode(np.full((2100, 2100, 3), grey, np.uint8), "JPEG", quality=90)
    assert (EncodedImage(data).decode_square(32, reduced=True) == grey).all()
