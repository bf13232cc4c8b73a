"""Images are prepared pixel by pixel as torchvision prepares them, whatever their shape, size and orientation."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from cifar10.images import decode
from cifar10.images.decode import EncodedImage, decode_image, resize_image, resize_picture
from cifar10.images.parallel import decode_files
from cifar10.images.preprocessing import Interpolation, Preprocessing

SHAPES = [(64, 51), (40, 63), (33, 33), (200, 7), (51, 200), (32, 32), (24, 90), (301, 302)]
RULES = [
    Preprocessing(28, 32, "bilinear"),
    Preprocessing(32, 32, "bicubic"),
    Preprocessing(23, 32, "bilinear"),
    Preprocessing(64, 73, "bicubic"),
]


def photo(height: int, width: int) -> Image.Image:
    """Return smooth and rough parts, so that both interpolation and its absence show."""
    random = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    rows = np.linspace(0, 255, height)[:, None, None]
    return Image.fromarray(np.where(random % 2 == 0, random, rows).astype(np.uint8))


def encoded(image: Image.Image, orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def torchvisions(image: Image.Image, rule: Preprocessing) -> Image.Image:
    assert rule.resize_size is not None
    resized = functional.resize(image, [rule.resize_size], InterpolationMode(rule.interpolation), antialias=True)
    cropped: Image.Image = functional.center_crop(resized, [rule.image_size])
    return cropped


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pixels_are_those_of_torchvision(rule: Preprocessing, height: int, width: int, tmp_path: Path) -> None:
    image = photo(height, width)
    expected = np.asarray(torchvisions(image, rule))
    assert expected.shape == (rule.image_size, rule.image_size, 3)
    np.testing.assert_array_equal(EncodedImage(encoded(image)).decode_square(rule), expected)
    np.testing.assert_array_equal(resize_image(np.asarray(image), rule), expected)
    np.testing.assert_array_equal(resize_picture(image, rule), expected)
    image.save(tmp_path / "photo.png")
    [(_, decoded)] = decode_files([tmp_path / "photo.png"], rule, look_ahead=1)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_large_images_are_resized_band_by_band_to_the_same_pixels(
    orientation: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(photo(height, width), orientation)
    upright = Image.fromarray(decode_image(data))
    monkeypatch.setattr(decode, "_BAND_PIXELS", 450)
    for rule in RULES:
        np.testing.assert_array_equal(EncodedImage(data).decode_square(rule), np.asarray(torchvisions(upright, rule)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_without_a_resize_size_the_central_square_is_resized(interpolation: Interpolation) -> None:
    image = photo(40, 64)
    square = image.resize((16, 16), Image.Resampling[interpolation.upper()], box=(12, 0, 52, 40))
    found = EncodedImage(encoded(image)).decode_square(Preprocessing(16, interpolation=interpolation))
    np.testing.assert_array_equal(found, np.asarray(square))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="resize_size=200 is smaller than image_size=224"):
        Preprocessing(224, 200)
