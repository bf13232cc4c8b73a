"""The second look at two images that may show the same: put one over the other, then compare them place by place.

One image is warped by an affine map, found by Gauss-Newton steps on the squared differences of locally normalised
brightness (Lucas and Kanade 1981), from coarse to fine. Each place has a weight that falls with its difference, so that
a caption or frame in one image does not move the map. Then the images are compared by the correlation of brightness in
small windows, which does not depend on brightness and contrast.

Shapes: P pairs of H x H pixels. An affine map p, (P, 6), takes (x, y) to ((1 + p0) x + p1 y + p2, p3 x + (1 + p4) y +
p5), in pixels from the centre.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

_AT_ONCE = 256  # pairs whose intermediate values a cache holds
_STAGES = ((2, 1.0, 10), (1, 1.2, 8), (1, 0.7, 6))
"""Reduction of the image, standard deviation of the blur in pixels of the reduced one, and number of steps."""
_LOCAL = 3.0  # pixels, standard deviation of the neighbourhood that brightness is normalised in
_FLAT = 6.0  # levels of 255 that count as no contrast
_OUTLIER = 0.7  # difference of normalised brightness at which a place has half its weight
_MOST_CHANGE, _MOST_SHIFT = 0.35, 0.25  # of the map: change of scale, and shift as a part of the side
_WINDOW = 2.0  # pixels, standard deviation of the windows of the comparison
_NOISE = 40.0  # squared levels: correlation of windows with less variance tends to 0
_LOW = 0.25  # the part of the windows that may be less alike than the result


class Alignment(NamedTuple):
    """How alike two images are after one was put over the other."""

    similarity: Tensor
    """(P,), at most 1: of the windows, weighted by their contrast, three quarters are at least as similar."""
    maps: Tensor
    """(P, 6), from pixels of the first image to those of the second."""


def align(first: Tensor, second: Tensor) -> Alignment:
    """Align and compare pairs of images.

    Args:
        first: Brightness in 0..255, float32 (P, H, H).
        second: Those to put over them, (P, H, H); mirror them before, if they are mirror images.
    """
    similarities, maps = torch.empty(len(first)), torch.empty(len(first), 6)
    with tqdm(total=len(first), desc="aligning", unit=" pairs", disable=None, leave=False) as bar:
        for start in range(0, len(first), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            a, b = first[part].unsqueeze(1), second[part].unsqueeze(1)
            maps[part] = _find_maps(a, b)
            similarities[part] = _similarity(a, b, maps[part])
            bar.update(len(a))
    return Alignment(similarities, maps)


def _find_maps(a: Tensor, b: Tensor) -> Tensor:  # (P, 1, H, H) twice -> (P, 6)
    maps = torch.zeros(len(a), 6)
    for reduction, deviation, steps in _STAGES:
        small_a, small_b = (_normalised(blur(functional.avg_pool2d(x, reduction), deviation)) for x in (a, b))
        scale = torch.tensor([1.0, 1.0, reduction, 1.0, 1.0, reduction])
        maps = _improve(small_a, small_b, maps / scale, steps) * scale
    return maps


def _improve(a: Tensor, b: Tensor, maps: Tensor, steps: int) -> Tensor:
    """Return `maps` after some Gauss-Newton steps towards b(map(x)) = a(x)."""
    side = a.shape[-1]
    most = torch.tensor([_MOST_CHANGE, _MOST_CHANGE, _MOST_SHIFT * side] * 2)
    ridge = torch.diag(torch.tensor([side * side / 12, side * side / 12, 1.0] * 2))
    x, y = _grid(side)
    one = torch.ones_like(x)
    squares = torch.stack([x * x, x * y, x, y * y, y, one], dim=-1).flatten(0, 1)  # (H*H, 6)
    first_order = torch.stack([x, y, one], dim=-1).flatten(0, 1)  # (H*H, 3)
    pick = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])  # the entries of a symmetric 3 x 3 matrix in `squares`
    stacked = torch.cat([b, *_gradients(b)], dim=1)
    for _ in range(steps):
        warped, inside = _warp(stacked, maps)
        values, across, down = (part.flatten(1) for part in warped.unbind(1))
        error = a.flatten(1) - values
        weight = inside.flatten(1) / (1 + (error / _OUTLIER).square())
        weighted_across, weighted_down = weight * across, weight * down
        xx, xy, yy = (
            (product @ squares)[:, pick]
            for product in (weighted_across * across, weighted_across * down, weighted_down * down)
        )
        hessian = torch.cat([torch.cat([xx, xy], dim=2), torch.cat([xy, yy], dim=2)], dim=1) + ridge
        gradient = torch.cat([(weighted_across * error) @ first_order, (weighted_down * error) @ first_order], dim=1)
        step = torch.linalg.solve(hessian, gradient)
        maps = (maps + step.clamp(-2, 2)).clamp(-most, most)
    return maps


def _similarity(a: Tensor, b: Tensor, maps: Tensor) -> Tensor:
    warped, inside = _warp(b, maps)
    one, other = blur(a, 0.6), blur(warped, 0.6)
    share = blur(inside, _WINDOW).clamp(min=1e-3)

    def mean(values: Tensor) -> Tensor:
        return blur(values * inside, _WINDOW) / share

    mean_one, mean_other = mean(one), mean(other)
    variance_one = (mean(one * one) - mean_one.square()).clamp(min=0)
    variance_other = (mean(other * other) - mean_other.square()).clamp(min=0)
    covariance = mean(one * other) - mean_one * mean_other
    correlation = (covariance / ((variance_one * variance_other).sqrt() + _NOISE)).flatten(1)
    weight = (((variance_one + variance_other) / 2).sqrt() * inside).flatten(1)
    ordered = correlation.sort(dim=1)
    below = weight.gather(1, ordered.indices).cumsum(dim=1)
    place = (below < _LOW * below[:, -1:]).sum(dim=1, keepdim=True).clamp(max=correlation.shape[1] - 1)
    return ordered.values.gather(1, place)[:, 0]


def _warp(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (P, C, H, H) at the mapped places, and (P, 1, H, H): 1 where these are inside of the image."""
    side = images.shape[-1]
    half = (side - 1) / 2
    x, y = _grid(side)
    p = maps[:, :, None, None]
    places = torch.stack([(1 + p[:, 0]) * x + p[:, 1] * y + p[:, 2], p[:, 3] * x + (1 + p[:, 4]) * y + p[:, 5]], dim=-1)
    inside = (places.abs() <= half).all(dim=-1)[:, None].float()
    sampled = functional.grid_sample(images, places / half, align_corners=True, padding_mode="border")
    return sampled, inside


def _grid(side: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(side) - (side - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return x, y


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def _normalised(images: Tensor) -> Tensor:
    difference = images - blur(images, _LOCAL)
    return difference / (blur(difference.square(), _LOCAL).sqrt() + _FLAT)


def blur(images: Tensor, deviation: float) -> Tensor:
    """Return (P, C, H, H) images blurred by a Gaussian of this standard deviation in pixels."""
    matrix = _blur_matrix(images.shape[-1], deviation)
    blurred: Tensor = matrix @ images @ matrix.T
    return blurred


@cache
def _blur_matrix(side: int, deviation: float) -> Tensor:
    """Return the matrix, (H, H), that blurs a column; beyond the ends it continues with the last value."""
    reach = int(3 * deviation + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-offsets.square() / (2 * deviation**2))
    places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    return torch.zeros(side, side).scatter_add_(1, places, (weights / weights.sum()).expand(side, -1).contiguous())
