"""What happens to a training batch, folded into the one gather that fetches it.

Pixels are kept packed, red, green, blue and nothing as one int32, so that moving a pixel is moving one number. A crop,
a mirror image and a hole then only change which numbers are gathered. What changes colours or blends images follows in
float. Every draw is made on the CPU for the whole batch, keyed by (seed, epoch, step): it depends neither on the device
nor on how many processes share the batch.

Shapes: N images in the set, B in the batch, b of them asked for (a process's or a micro-batch's share), H == W pixels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from cifar10.config import AugmentationConfig

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
_FLIP_STREAM, _STEP_STREAM = 1, 2  # keep the two kinds of draws apart


def pack(images: Tensor) -> Tensor:
    """Return uint8 (N, 3, H, W) as int32 (N, H, W): one number a pixel."""
    padded = torch.zeros(len(images), *images.shape[2:], 4, dtype=torch.uint8, device=images.device)
    padded[..., :3] = images.permute(0, 2, 3, 1)
    return padded.view(torch.int32).squeeze(-1)


def unpack(packed: Tensor) -> Tensor:
    """Return int32 (B, H, W) as uint8 (B, 3, H, W); a view, laid out as channels_last."""
    return packed.unsqueeze(-1).view(torch.uint8)[..., :3].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Draws:
    """The random choices for one batch; arrays have B entries."""

    flip: NDArray[np.bool_]
    shift: NDArray[np.int64]  # (B, 2): rows, columns
    hole: NDArray[np.int64]  # (B, 2): first row, first column of the cutout
    colour: NDArray[np.float32]  # (B, 3): brightness, contrast, saturation factors
    partner: NDArray[np.int64]  # position in the batch of the image to mix with
    blend: float  # part of an image that stays its own
    box: tuple[int, int, int, int]  # cutmix: first and past-last row, first and past-last column


class Augmentation:
    """Random changes to training images that keep their label.

    Args:
        config: What to do.
        num_images: N.
        image_size: H.
        fill: Mean colour, uint8 (3,), for holes.
        seed: Of every draw.
    """

    def __init__(self, config: "AugmentationConfig", num_images: int, image_size: int, fill: Tensor, seed: int) -> None:
        self.config = config
        self.size = image_size
        self.seed = seed
        self.fill = pack(fill.view(1, 3, 1, 1)).item()
        # Alternating: which images are mirrored in even epochs; in odd ones it is the others.
        self.first_flips = np.random.default_rng([seed, _FLIP_STREAM]).random(num_images) < 0.5

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities."""
        return self.config.mixup > 0 or self.config.cutmix > 0

    def draw(self, indices: NDArray[np.int64], epoch: int, step: int) -> Draws:
        """Choose for the batch of the images `indices`, (B,)."""
        config, size, num = self.config, self.size, len(indices)
        random = np.random.default_rng([self.seed, _STEP_STREAM, epoch, step])
        coins = random.random(num) < 0.5
        spread = np.array([config.brightness, config.contrast, config.saturation])
        blend = random.beta(config.mixup, config.mixup) if config.mixup else 1.0
        box = (0, 0, 0, 0)
        if config.cutmix:
            box = _random_box(random, size, area=1 - random.beta(config.cutmix, config.cutmix))
            blend = 1 - (box[1] - box[0]) * (box[3] - box[2]) / size**2
        return Draws(
            flip={
                "none": np.zeros(num, dtype=bool),
                "random": coins,
                "alternating": self.first_flips[indices] ^ (epoch % 2 == 1),
            }[config.flip],
            shift=random.integers(-config.crop_padding, config.crop_padding + 1, size=(num, 2)),
            hole=random.integers(0, size, size=(num, 2)) - config.cutout // 2,
            colour=(1 + spread * random.uniform(-1, 1, size=(num, 3))).astype(np.float32),
            partner=random.permutation(num),
            blend=float(blend),
            box=box,
        )

    def apply(self, packed: Tensor, indices: NDArray[np.int64], draws: Draws, part: slice) -> Tensor:
        """Return the images at positions `part` of the batch, changed as drawn.

        Args:
            packed: int32 (N, H, W), the whole set.
            indices: (B,), which of them make the batch.
            draws: For the batch.
            part: b positions of the batch.

        Returns:
            uint8 (b, 3, H, W); float in 0..255 if colours change or images are mixed.
        """
        positions = np.arange(len(indices))[part]
        images = self._gather(packed, indices, draws, positions)
        if not self.mixes:
            return images
        partners = self._gather(packed, indices, draws, draws.partner[positions])
        if self.config.mixup:
            return images.float().mul_(draws.blend).add_(partners.float(), alpha=1 - draws.blend)
        top, bottom, left, right = draws.box
        images = images.clone(memory_format=torch.preserve_format)
        images[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return images

    def _gather(self, packed: Tensor, indices: NDArray[np.int64], draws: Draws, positions: NDArray[np.int64]) -> Tensor:
        line = np.arange(self.size)
        rows = _reflect(line + draws.shift[positions, :1], self.size)  # (b, H)
        columns = _reflect(line + draws.shift[positions, 1:], self.size)  # (b, W)
        columns = np.where(draws.flip[positions, None], columns[:, ::-1], columns)
        device = packed.device
        base = _tensor(indices[positions] * self.size**2, device).view(-1, 1, 1)
        flat = base + _tensor(rows * self.size, device).unsqueeze(2) + _tensor(columns, device).unsqueeze(1)
        pixels = packed.view(-1).index_select(0, flat.view(-1)).view(flat.shape)  # (b, H, W)
        if self.config.cutout:
            pixels.masked_fill_(self._holes(draws.hole[positions], device), self.fill)
        images = unpack(pixels)
        if self.config.brightness or self.config.contrast or self.config.saturation:
            return _recolour(images.float(), _tensor(draws.colour[positions], device))
        return images

    def _holes(self, first: NDArray[np.int64], device: torch.device) -> Tensor:
        line = np.arange(self.size)
        inside = (line >= first[..., None]) & (line < first[..., None] + self.config.cutout)  # (b, 2, H)
        return _tensor(inside[:, 0, :, None] & inside[:, 1, None, :], device)  # (b, H, W)


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def _reflect(positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Fold positions outside [0, size) back in, as a mirror at the border pixel does."""
    last = size - 1
    folded: NDArray[np.int64] = last - np.abs(last - np.abs(positions))
    return folded


def _recolour(images: Tensor, factors: Tensor) -> Tensor:  # float (b, 3, H, W), (b, 3) -> float (b, 3, H, W)
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1).split(1, dim=1)
    images = images * brightness
    luma = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    mean: Tensor = (images * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    grey = (images * luma).sum(dim=1, keepdim=True)
    images = grey + (images - grey) * saturation
    return images.clamp(0, 255)


def _random_box(random: np.random.Generator, size: int, area: float) -> tuple[int, int, int, int]:
    """Return a square of about `area` (part of the image) around a random centre, cut off at the border."""
    half = size * np.sqrt(area) / 2
    row, column = random.uniform(0, size, size=2)
    edges = np.clip(np.rint([row - half, row + half, column - half, column + half]), 0, size)
    top, bottom, left, right = (int(edge) for edge in edges)
    return top, bottom, left, right
