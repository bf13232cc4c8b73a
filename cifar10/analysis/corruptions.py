"""Common corruptions of images, in five strengths: noise, blur, weather and digital artefacts.

The kinds, and the numbers for each strength, are those of Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations" (arXiv:1903.12261), for images of 32 pixels; lengths grow with the
image. It is another implementation, so accuracies are not those of the published files: frost is drawn and not a photo,
fog is spectral noise, and glass takes each pixel from near its place instead of exchanging pairs.

An image is corrupted in the same way each time: the random numbers depend on the seed, the kind and its position.

Shapes: N images, B in a block, S x S pixels; inside this module float in 0..1, (B, 3, S, S).
"""

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid

from cifar10.analysis.warping import (
    both_sides,
    defocused,
    fractal,
    gaussian,
    pixels_of,
    plain_grid,
    sampled,
    streaked,
    zoom,
)
from cifar10.data.stored_images import Images

_AT_ONCE = 2**18  # pixels in a block: 256 images of 32 x 32
_PUBLISHED_SIZE = 32  # pixels, for which the numbers below are
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
_ICE = torch.tensor([0.86, 0.94, 1.0]).view(1, 3, 1, 1)

Random = np.random.Generator


def corrupted(images: Images, kind: str, strength: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield `images` with a corruption, in order, in blocks of some hundred.

    Args:
        images: uint8 (N, 3, S, S).
        kind: One of `corruption_kinds.KINDS`.
        strength: 1 to 5.
        seed: Of everything that is random. The strengths of a kind share their random numbers.

    Yields:
        uint8 (B, 3, S, S).
    """
    size = images.shape[-1]
    function, numbers = _FUNCTIONS[kind]
    for start in range(0, len(images), block := max(1, _AT_ONCE // size**2)):
        pixels = images[start : start + block]
        random = np.random.default_rng([seed, zlib.crc32(kind.encode()), start])
        if kind == "jpeg_compression":
            yield _jpeg(pixels, numbers[strength - 1])
            continue
        changed = function(pixels.float() / 255, numbers[strength - 1], random)
        yield (255 * changed.clamp(0, 1)).round().to(torch.uint8)


def _length(images: Tensor, pixels: float) -> float:
    """Return a length that is `pixels` in an image of 32 pixels, for the size of `images`."""
    return pixels * images.shape[-1] / _PUBLISHED_SIZE


def _normal(random: Random, *shape: int) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape, np.float32))


def _uniform(random: Random, *shape: int) -> Tensor:
    return torch.from_numpy(random.random(shape, np.float32))


# -- noise --------------------------------------------------------------------------------------------------------


def _gaussian_noise(images: Tensor, deviation: float, random: Random) -> Tensor:
    return images + deviation * _normal(random, *images.shape)


def _shot_noise(images: Tensor, photons: float, random: Random) -> Tensor:
    return torch.from_numpy(random.poisson(images.numpy() * photons)).float() / photons


def _impulse_noise(images: Tensor, share: float, random: Random) -> Tensor:
    drawn = _uniform(random, *images.shape)  # the lowest become black, the highest white
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, images))


# -- blur ---------------------------------------------------------------------------------------------------------


def _defocus_blur(images: Tensor, numbers: tuple[float, float], random: Random) -> Tensor:
    radius, softness = numbers
    return defocused(images, _length(images, radius), softness)


def _glass_blur(images: Tensor, numbers: tuple[float, int, int], random: Random) -> Tensor:
    sigma, reach, rounds = numbers
    size = images.shape[-1]
    blur, most = gaussian(size, _length(images, sigma)), round(_length(images, reach))
    images = both_sides(images, blur)
    for _ in range(rounds):
        offsets = torch.from_numpy(random.integers(-most, most + 1, (len(images), size, size, 2))).float()
        images = sampled(images, plain_grid(size) + offsets * 2 / size, mode="nearest")
    return both_sides(images, blur)


def _motion_blur(images: Tensor, numbers: tuple[float, float], random: Random) -> Tensor:
    radius, sigma = numbers
    angles = (_uniform(random, len(images)) - 0.5) * torch.pi / 2  # within 45 degrees of the horizontal
    return streaked(images, angles, _length(images, radius), _length(images, sigma))


def _zoom_blur(images: Tensor, largest: float, random: Random) -> Tensor:
    factors = np.arange(1, largest - 0.005, 0.01)
    total = images.clone()
    for factor in factors:
        total += both_sides(images, zoom(images.shape[-1], float(factor)))
    return total / (len(factors) + 1)


# -- weather ------------------------------------------------------------------------------------------------------


def _snow(images: Tensor, numbers: tuple[float, ...], random: Random) -> Tensor:
    mean, deviation, flake, threshold, radius, sigma, kept = numbers
    size = images.shape[-1]
    noise = mean + deviation * _normal(random, len(images), 1, size, size)
    flakes = both_sides(noise, zoom(size, _length(images, flake)))
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    angles = torch.pi * (_uniform(random, len(images)) - 1.5) / 2  # downwards, by 45 degrees to either side
    fallen = streaked(flakes, angles, _length(images, radius), _length(images, sigma))
    whitened = torch.maximum(images, 1.5 * (images * _GREY).sum(dim=1, keepdim=True) + 0.5)
    return kept * images + (1 - kept) * whitened + fallen + fallen.flip(2, 3)


def _frost(images: Tensor, numbers: tuple[float, float], random: Random) -> Tensor:
    kept, added = numbers
    size = images.shape[-1]
    coarse, fine, patches = (fractal(len(images), size, roughness, random) for roughness in (1.7, 1.3, 2.5))
    needles = torch.maximum(_ridges(coarse, 6), 0.8 * _ridges(fine, 3))
    return kept * images + added * (0.25 + 0.75 * needles * (0.4 + patches)).clamp(0, 1) * _ICE


def _ridges(clouds: Tensor, sharpness: int) -> Tensor:
    """Return 1 along the lines where `clouds` are 0.5, and less beside them."""
    return (1 - (2 * clouds - 1).abs()) ** sharpness


def _fog(images: Tensor, numbers: tuple[float, float], random: Random) -> Tensor:
    thickness, roughness = numbers
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = fractal(len(images), images.shape[-1], roughness, random)
    return (images + thickness * clouds) * brightest / (brightest + thickness)


def _brightness(images: Tensor, added: float, random: Random) -> Tensor:
    """Raise the value of each pixel; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + added).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised)


# -- digital ------------------------------------------------------------------------------------------------------


def _contrast(images: Tensor, kept: float, random: Random) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + kept * (images - mean)


def _elastic_transform(images: Tensor, numbers: tuple[float, float, float], random: Random) -> Tensor:
    """Move three points near the centre, and with them the image; then each pixel by smooth noise.

    Args:
        images: The images.
        numbers: Largest shift by the noise before it is smoothed, the deviation that smooths it, and the largest shift
            of a point, all as parts of a side.
        random: Source of the shifts.
    """
    shift, smoothness, moved = numbers
    number, size = len(images), images.shape[-1]
    third = 2 / 3  # of a side, which is 2 in the positions of a grid
    points = torch.tensor([[third, third, 1], [third, -third, 1], [-third, -third, 1]])
    targets = points[:, :2] + 4 * moved * (_uniform(random, number, 3, 2) - 0.5)
    matrices = torch.linalg.solve(points.expand(number, 3, 3), targets).transpose(1, 2)  # (B, 2, 3)
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    noise = 2 * _uniform(random, number, 2, size, size) - 1
    smooth = both_sides(noise, gaussian(size, smoothness * size)).permute(0, 2, 3, 1)
    return sampled(images, grid + 2 * shift * smooth)


def _pixelate(images: Tensor, kept: float, random: Random) -> Tensor:
    size = images.shape[-1]
    return both_sides(images, pixels_of(size, max(1, int(size * kept))))


def _jpeg(pixels: Tensor, quality: int) -> Tensor:  # uint8 (B, 3, S, S) -> uint8 (B, 3, S, S)
    def through_jpeg(image: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    arrays = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as threads:
        decoded = np.stack(list(threads.map(through_jpeg, arrays)))
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous()


_Function = Callable[[Tensor, Any, Random], Tensor]
_FUNCTIONS: dict[str, tuple[_Function, Sequence[Any]]] = {  # with the numbers of the five strengths
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (lambda images, quality, random: images, (80, 65, 58, 50, 40)),
}
