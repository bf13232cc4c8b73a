"""Corruptions: what each does to an image, and that it does it again in the same way."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cifar10.analysis.corruptions import corrupted
from cifar10.analysis.warping import both_sides, fractal, gaussian, pixels_of, zoom
from cifar10.config.corruption_kinds import GROUPS, KINDS, STRENGTHS, chosen_kinds
from cifar10.errors import UsageError

SMOOTH = ("defocus_blur", "motion_blur", "zoom_blur", "pixelate")


def images(number: int = 8, size: int = 32, seed: int = 0) -> Tensor:
    """Return clouds in colour, of middle brightness, with some detail."""
    random = np.random.default_rng(seed)
    clouds = torch.cat([fractal(number, size, roughness, random) for roughness in (1.6, 1.8, 2.2)], dim=1)
    return (40 + 150 * clouds).round().to(torch.uint8)


def one(pixels: Tensor, kind: str, strength: int, seed: int = 0) -> Tensor:
    return torch.cat(list(corrupted(pixels, kind, strength, seed)))


def distance(pixels: Tensor, others: Tensor) -> float:
    return float((pixels.float() - others.float()).abs().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_keeps_the_form_changes_the_image_and_grows_with_its_strength(kind: str) -> None:
    pixels = images(16)
    before = pixels.clone()
    found = [one(pixels, kind, strength) for strength in STRENGTHS]
    assert torch.equal(pixels, before)
    assert all(each.dtype == torch.uint8 and each.shape == pixels.shape for each in found)
    distances = [distance(pixels, each) for each in found]
    assert distances[0] > 0.1 and distances[-1] > 1
    if kind not in ("elastic_transform", "glass_blur", "frost"):  # whose strengths differ in kind
        assert distances == sorted(distances), distances


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_corrupted_in_the_same_way_again_and_otherwise_with_another_seed(kind: str) -> None:
    pixels = images(3)
    assert torch.equal(one(pixels, kind, 3), one(pixels, kind, 3))
    is_random = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(one(pixels, kind, 3), one(pixels, kind, 3, seed=1)) == (not is_random)


@pytest.mark.parametrize("size", [1, 2, 9, 65])
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_are_corrupted(kind: str, size: int) -> None:
    pixels = images(2, size)
    for strength in (1, 5):
        assert one(pixels, kind, strength).shape == pixels.shape


def test_blocks_come_in_order_and_are_bounded() -> None:
    pixels = images(600, 32)
    blocks = list(corrupted(pixels, "contrast", 1))
    assert len(blocks) == 3 and max(map(len, blocks)) == 256
    assert torch.equal(torch.cat(blocks)[300:301], one(pixels[300:301], "contrast", 1))


def test_noise_has_its_deviation_and_its_share() -> None:
    grey = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    for strength, expected in zip(STRENGTHS, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noise = one(grey, "gaussian_noise", strength).float() / 255
        assert float(noise.std()) == pytest.approx(expected, rel=0.02)
    shot = one(grey, "shot_noise", 5).float() / 255
    assert float(shot.std()) == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.02)
    salted = one(grey, "impulse_noise", 5)
    assert float((salted == 0).float().mean()) == pytest.approx(0.035, rel=0.05)
    assert float((salted == 255).float().mean()) == pytest.approx(0.035, rel=0.05)


def test_contrast_and_brightness_are_exact() -> None:
    pixels = torch.tensor([[[[0, 200]], [[0, 100]], [[0, 40]]]], dtype=torch.uint8).repeat(1, 1, 2, 1)
    assert one(pixels, "contrast", 5)[0, :, 0].tolist() == [[85, 115], [42, 58], [17, 23]]
    brighter = one(pixels, "brightness", 2)[0, :, 0]  # the value grows by 0.1; hue and saturation stay
    assert brighter.tolist() == [[26, 226], [26, 113], [26, 45]]


@pytest.mark.parametrize("kind", SMOOTH)
def test_blur_keeps_the_mean_and_takes_detail_away(kind: str) -> None:
    pixels = images(8)
    smooth = one(pixels, kind, 5).float()
    assert float(smooth.mean()) == pytest.approx(float(pixels.float().mean()), abs=2)
    assert float(smooth.diff(dim=3).abs().mean()) < 0.85 * float(pixels.float().diff(dim=3).abs().mean())


def test_glass_moves_pixels_a_little_and_snow_frost_and_fog_whiten() -> None:
    dark = torch.full((8, 3, 32, 32), 60, dtype=torch.uint8)
    assert distance(one(dark, "glass_blur", 5), dark) == 0  # nothing to move in an even image
    for kind in ("snow", "frost"):
        assert float(one(dark, kind, 5).float().mean()) > 80
    halves = dark.clone()
    halves[..., 16:] = 200
    fog = one(halves, "fog", 5).float()
    clear = float(halves.float().std(dim=(2, 3)).mean())
    assert float(fog.mean(dim=(0, 2))[:, [0, -1]].diff().mean()) < 0.7 * 140 and clear > 60  # contrast is lost


def test_jpeg_is_pillow_s_and_pixels_are_even() -> None:
    import io

    from PIL import Image

    pixels = images(1)
    file = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file))
    np.testing.assert_array_equal(one(pixels, "jpeg_compression", 5)[0].permute(1, 2, 0).numpy(), expected)
    coarse = both_sides(torch.arange(16.0).reshape(1, 1, 4, 4), pixels_of(4, 2))[0, 0]
    assert coarse.tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2


def test_matrices_keep_an_even_image() -> None:
    for matrix in (gaussian(9, 2.0), gaussian(9, 0.0), zoom(9, 1.26), pixels_of(9, 4)):
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(9))
    assert torch.equal(zoom(9, 1.0), torch.eye(9))


def test_names_of_kinds_and_groups_are_understood() -> None:
    assert chosen_kinds("all") == list(KINDS) and len(KINDS) == 15
    assert chosen_kinds("fog,noise, fog") == [*GROUPS["noise"], "fog"]
    assert chosen_kinds("[motion-blur]") == ["motion_blur"]
    with pytest.raises(UsageError, match=r"there is no fogg; did you mean fog\?"):
        chosen_kinds("noise,fogg")
    with pytest.raises(UsageError, match="names none"):
        chosen_kinds(",")
