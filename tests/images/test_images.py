"""The decoder refuses what is not whole, with a reason, and shows every kind of picture as a person would see it."""

import io
import os
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar10.images import decode, reading
from cifar10.images.decode import EncodedImage, ImageError, decode_image, resize_image
from tests.malformed import Malformed, encode, flip_byte, malformed_images, picture, png_bomb

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks, for which `infer` calls silence_pillow()

LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


def save(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("image_format", "options"), LOSSLESS)
def test_lossless_formats_return_the_pixels_that_were_saved(image_format: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode_image(encode(picture(), image_format, **options)), picture())


def test_a_path_and_its_bytes_decode_alike_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a picture, honest.txt"
    path.write_bytes(encode(picture(), "PNG"))
    np.testing.assert_array_equal(decode_image(path), decode_image(path.read_bytes()))


@pytest.mark.parametrize("malformed", malformed_images(), ids=lambda malformed: malformed.name)
def test_malformed_files_are_refused_with_their_reason(malformed: Malformed) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(malformed.data)
    reason = str(caught.value)
    assert re.search(malformed.reason, reason)
    assert len(reason) < 130 and "\n" not in reason


def test_there_are_at_least_25_kinds_of_malformed_files() -> None:
    kinds = malformed_images()
    assert len({kind.name for kind in kinds}) == len(kinds) >= 25


@pytest.mark.parametrize(("image_format", "options"), [*LOSSLESS, ("JPEG", {}), ("GIF", {}), ("WEBP", {})])
def test_a_file_cut_off_anywhere_is_refused_or_loses_nothing(image_format: str, options: dict[str, Any]) -> None:
    whole = encode(picture(size=16), image_format, **options)
    pixels = decode_image(whole)
    cuts = random.Random(0).sample(range(len(whole)), 60)
    for length in [*cuts, len(whole) - 1, len(whole) - 2]:
        try:
            decoded = decode_image(whole[:length])
        except ImageError:
            continue
        np.testing.assert_array_equal(decoded, pixels, err_msg=f"{length} of {len(whole)} bytes")


def test_a_png_with_any_one_byte_changed_is_refused() -> None:
    whole = encode(picture(size=8), "PNG")
    for position in range(len(whole)):
        with pytest.raises(ImageError):
            decode_image(flip_byte(whole, position))


def test_bombs_are_refused_before_they_take_time_or_memory() -> None:
    bomb = png_bomb(20_000, 20_000)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ImageError, match="too large"):
        decode_image(bomb)
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.2 and peak < 64 * 2**20


def test_a_file_above_the_byte_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    path = tmp_path / "big.bmp"
    path.write_bytes(encode(picture(), "BMP"))
    with pytest.raises(ImageError, match="too large"):
        decode_image(path)


def test_pipes_folders_and_missing_files_are_reasons_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "pipe.png": "not a regular",
        "folder.png": "a folder",
        "none.png": "cannot be read: No such",
    }.items():
        with pytest.raises(ImageError, match=reason):
            decode_image(tmp_path / name)
    with pytest.raises(ImageError, match="not a regular file"):
        decode_image(Path(os.devnull))


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(encode(picture(), "PNG"))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # tests may run as root, who may read everything
    with pytest.raises(ImageError, match=r"^cannot be read: Permission denied$"):
        decode_image(path)


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, file = tmp_path / "pipe.png", tmp_path / "file.png"
    os.mkfifo(pipe)
    file.write_bytes(b"x")
    look = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: look(file if path == pipe else path, **how))  # seen before
    seen: list[str] = []

    def read() -> None:
        try:
            decode_image(pipe)
        except ImageError as error:
            seen.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert seen == ["not a regular file"]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(image_format: str, orientation: int) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :16] = 255  # top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(save(Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=exif))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 3  # JPEG and WebP are lossy


def test_orientation_that_cannot_be_read_leaves_the_picture_as_it_is() -> None:
    data = save(Image.fromarray(picture()), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    np.testing.assert_array_equal(decode_image(data), picture())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        data = save(image, "PNG", transparency=0)
    elif mode == "PA":
        data = save(image, "GIF")
    else:
        data = save(image.convert(mode), "PNG")
    assert (decode_image(data) == 255).all()


def test_half_transparent_black_becomes_grey() -> None:
    data = save(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")
    assert (np.abs(decode_image(data).astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_keeps_its_shades(image_format: str) -> None:
    shades = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    decoded = decode_image(save(Image.fromarray(shades), image_format))
    np.testing.assert_array_equal(decoded, np.repeat((shades // 257).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_grey_is_read_from_zero_to_one_or_to_255(scale: float) -> None:
    shades = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    decoded = decode_image(save(Image.fromarray(shades * np.float32(scale)), "TIFF"))
    np.testing.assert_array_equal(decoded[:, :, 0], np.rint(shades * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "image_format"), [("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")]
)
def test_other_colour_modes_look_as_they_should(mode: str, image_format: str) -> None:
    white_left = np.zeros((16, 16, 3), np.uint8)
    white_left[:, :8] = 255
    decoded = decode_image(save(Image.fromarray(white_left).convert(mode), image_format))
    assert decoded.shape == (16, 16, 3) and decoded.dtype == np.uint8
    assert decoded[:, :7].min() > 250 and decoded[:, 9:].max() < 5


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = save(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_conversion_band_by_band_changes_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(size=48)
    if mode in ("I;16", "F"):
        grey = pixels[:, :, 0]
        image = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.float32))
    else:
        image = Image.fromarray(pixels).convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(pixels[:, :, 1]))
    data = save(image, "TIFF")
    whole = decode_image(data)
    monkeypatch.setattr(decode, "_BAND_PIXELS", 48 * 7)
    np.testing.assert_array_equal(decode_image(data), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(64, 51), (40, 63), (33, 33), (200, 7), (51, 200)])
def test_decoding_to_a_square_is_decoding_turning_and_resizing(
    orientation: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(picture(size=200)[:height, :width]), "PNG", exif=exif)
    for size in (8, 33, 64):
        expected = resize_image(decode_image(data), size)
        np.testing.assert_array_equal(EncodedImage(data).decode_square(size), expected)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "_BAND_PIXELS", 450)  # as if it were large
            np.testing.assert_array_equal(EncodedImage(data).decode_square(size), expected)


def test_pixels_of_the_right_size_are_not_touched() -> None:
    pixels = picture()
    assert resize_image(pixels, 32) is pixels


@pytest.mark.parametrize("shape", [(64, 64), (20, 20), (64, 128), (100, 33), (1, 1), (1, 4000), (4000, 1)])
def test_any_shape_becomes_the_square_asked_for(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    resized = resize_image(pixels, 32)
    assert resized.shape == (32, 32, 3) and resized.dtype == np.uint8 and (resized == 77).all()


def test_the_long_side_is_cropped_in_the_middle() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = picture()
    assert np.abs(resize_image(pixels, 32).astype(int) - picture()).max() == 0


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checkered = np.indices((256, 256)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checkered.astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.abs(resize_image(pixels, 32).astype(int) - 127).max() <= 2


def test_decoded_pixels_may_be_written_to() -> None:
    assert decode_image(encode(picture(), "PNG")).flags.writeable


def test_the_decoder_needs_no_torch() -> None:
    code = "import sys, cifar10.images.decode, cifar10.images.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
