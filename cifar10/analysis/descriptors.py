"""Descriptors of images for finding near-duplicates: unit vectors whose dot products say how alike two images are.

All images are reduced to 32 x 32 pixels first, so that copies of another size are found too. Two kinds of descriptors
fail for different images:

- orientations: how strong edges of each of eight directions are in 9 x 9 overlapping cells, as in "Histograms of
  Oriented Gradients for Human Detection" (Dalal and Triggs 2005); it ignores brightness and most changes of colour;
- colours: an image of 8 x 8 pixels, less its mean.

Shapes: N images of S x S pixels, D numbers in a descriptor.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cifar10.data.stored_images import Images, parts_of

SIDE = 32
"""Pixels of the reduced images."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DIRECTIONS = 8
_CELL = 4  # pixels between two cells, which are twice as wide
_NUM_CELLS = SIDE // _CELL + 1
_COLOURS = 8  # side of the image of colours
_AT_ONCE = 1024  # images
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Descriptor:
    """One kind of descriptor of all images.

    Args:
        name: Of the kind.
        vectors: float32 (N, D), of length 1.
        mirrored: The descriptors of the mirror images, (N, D); None: mirror images are not compared.
    """

    name: str
    vectors: Tensor
    mirrored: Tensor | None = None


def reduced(images: Tensor) -> Tensor:
    """Return uint8 (N, 3, S, S) images as float32 (N, 3, 32, 32) in 0..255, each pixel the mean of those it covers."""
    pixels = images.float()
    if pixels.shape[-1] == SIDE:
        return pixels
    if pixels.shape[-1] > SIDE:
        return functional.interpolate(pixels, size=SIDE, mode="bilinear", antialias=True, align_corners=False)
    return functional.interpolate(pixels, size=SIDE, mode="bilinear", align_corners=False)


def thumbnails_of(images: Images) -> Tensor:
    """Return all images reduced and rounded, as uint8 (N, 3, 32, 32)."""
    parts = [
        reduced(batch).round().clamp(0, 255).to(torch.uint8)
        for part in parts_of(images)
        for batch in part.split(_AT_ONCE)
    ]
    return torch.cat(parts) if parts else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)


def descriptors_of(thumbnails: Tensor) -> list[Descriptor]:
    """Return orientations and colours of uint8 (N, 3, 32, 32) images, and those of their mirror images."""
    num = len(thumbnails)
    orientations, colours = (torch.empty(2, num, size) for size in (_DIRECTIONS * _NUM_CELLS**2, 3 * _COLOURS**2))
    for start in range(0, num, _AT_ONCE):  # written in place: as parts, all of them would be in memory twice
        batch, rows = thumbnails[start : start + _AT_ONCE], slice(start, start + _AT_ONCE)
        maps, small = _orientations(grey(batch)), _colours(batch.float())
        orientations[0, rows], orientations[1, rows] = _unit(maps), _unit(_mirrored_orientations(maps))
        colours[0, rows], colours[1, rows] = _unit(small), _unit(small.flip(3))
    return [Descriptor("orientations", *orientations), Descriptor("colours", *colours)]


def grey(images: Tensor) -> Tensor:
    """Return the brightness of (N, 3, H, W) images as float32 (N, H, W)."""
    red, green, blue = images.float().unbind(1)
    brightness: Tensor = red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]
    return brightness


def _orientations(brightness: Tensor) -> Tensor:  # (N, 32, 32) -> (N, 8, 9, 9)
    padded = functional.pad(brightness.unsqueeze(1), (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    cubed = (across.square() + down.square()).add_(_TINY).pow_(1.5)
    maps = []
    for number in range(_DIRECTIONS):  # the strength of an edge, times the fourth power of the cosine of its direction
        angle = 2 * math.pi * number / _DIRECTIONS
        along = (across * math.cos(angle) + down * math.sin(angle)).clamp_(min=0).square_().square_() / cubed
        maps.append(functional.avg_pool2d(along.unsqueeze(1), 2 * _CELL, stride=_CELL, padding=_CELL))
    cells = torch.cat(maps, dim=1)
    cells = (cells / (cells.flatten(1).norm(dim=1)[:, None, None, None] + _TINY)).sqrt_()
    centred: Tensor = cells - cells.mean(dim=(2, 3), keepdim=True)
    return centred


def _mirrored_orientations(maps: Tensor) -> Tensor:
    """Return the orientations of the mirror images: cells from right to left, and each angle a as pi - a."""
    directions = [(_DIRECTIONS // 2 - number) % _DIRECTIONS for number in range(_DIRECTIONS)]
    return maps[:, directions].flip(3)


def _colours(pixels: Tensor) -> Tensor:  # (N, 3, 32, 32) -> (N, 3, 8, 8)
    small = functional.avg_pool2d(pixels, SIDE // _COLOURS)
    return small - small.mean(dim=(1, 2, 3), keepdim=True)


def _unit(maps: Tensor) -> Tensor:  # (N, ...) -> (N, D)
    return functional.normalize(maps.flatten(1), dim=1, eps=_TINY)
