"""The fast path for plain PNG returns the pixels of Pillow's general path, and leaves everything else to it."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cifar10.images import decode
from cifar10.images.decode import EncodedImage, ImageError
from cifar10.images.plain_png import read_plain_png
from tests.malformed import encode, flip_byte, malformed_images, picture, png, png_chunk

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, for which `infer` calls silence_pillow()


def outcome(data: bytes) -> tuple[Any, str]:
    """Return the pixels as bytes and the reason for a refusal."""
    try:
        return EncodedImage(data).decode_square(32).tobytes(), ""
    except ImageError as error:
        return b"", str(error)


def both_ways(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    fast = outcome(data)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_plain_png", lambda data: None)
        return fast, outcome(data)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 200])
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}, {"dpi": (72, 72)}])
def test_the_pixels_are_those_of_the_general_path(
    size: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(picture(3, size), "PNG", **options)
    assert read_plain_png(data) is not None
    fast, general = both_ways(data, monkeypatch)
    assert fast == general and fast[0]


def test_other_pngs_take_the_general_path() -> None:
    pixels = picture()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 8\n4d4d002a")  # an orientation may be in a text
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    others = [
        encode(pixels[:, :, 0], "PNG"),
        encode(np.dstack([pixels, pixels[:, :, :1]]), "PNG"),
        encode(pixels, "PNG", pnginfo=text),
        encode(pixels, "PNG", exif=exif),
        encode(pixels, "PNG", transparency=(1, 2, 3)),
        png(32, 32, rows, interlaced=True),
        buffer.getvalue(),
        encode(pixels, "JPEG"),
    ]
    assert [read_plain_png(data) for data in others] == [None] * len(others)


def test_damage_is_refused_for_the_reason_of_the_general_path(monkeypatch: pytest.MonkeyPatch) -> None:
    good = encode(picture(), "PNG")
    rows = b"".join(b"\0" + row.tobytes() for row in picture())
    files = [flip_byte(good, position) for position in range(0, len(good), 7)]
    files += [good[:length] for length in range(0, len(good), 13)]
    files += [png(32, 32, zlib.compress(rows[:length])) for length in (0, 1, 96, 97, 98, 3000, len(rows) - 1)]
    files += [png(32, 32, zlib.compress(rows)[:length]) for length in (0, 2, 40, 1000)]
    files += [png(32, 32, zlib.compress(rows + b"more")), png(32, 32, zlib.compress(b"\x09" + rows[1:]))]
    files += [good[:33] + png_chunk(b"IDAT", b"") + good[33:], good + good]
    files += [item.data for item in malformed_images() if item.name.startswith("png")]
    for data in files:
        fast, general = both_ways(data, monkeypatch)
        assert fast == general
