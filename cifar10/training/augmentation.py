"""Augmentation of training images, combined with the gather that builds a batch.

Pixels are packed: red, green, blue and a zero byte in one int32, so that one number moves one pixel. Crop, mirroring
and cutout only change which numbers are gathered. Colour changes and blending follow in float. Images come from a set
that is packed on the device as a whole, or from a file, of which a batch is packed at a time.

The choices for a whole epoch are drawn at once, on the CPU, keyed by (seed, epoch, position): they depend neither on
the device nor on the number of processes. They are copied to the device once, without synchronisation.

Shapes: N images in the set, P of them in an epoch of S steps, B = P/S in a batch, b of them in the share of a process
or a micro-batch, H == W pixels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar10.data.stored_images import StoredImages

if TYPE_CHECKING:
    from cifar10.config.schema import AugmentationConfig

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
# Each kind of choice has its own random stream: switching one on or off does not change the others.
_FIRST_FLIP, _FLIP, _SHIFT, _HOLE, _COLOUR, _PARTNER, _BLEND = 1, 10, 11, 12, 13, 14, 15


def pack(images: Tensor) -> Tensor:
    """Return uint8 (N, 3, H, W) as int32 (N, H, W): one number a pixel."""
    padded = torch.zeros(len(images), *images.shape[2:], 4, dtype=torch.uint8, device=images.device)
    for channel in range(3):  # in less than half of the time of a permutation
        padded[..., channel] = images[:, channel]
    return padded.view(torch.int32).squeeze(-1)


def unpack(packed: Tensor) -> Tensor:
    """Return int32 (B, H, W) as uint8 (B, 3, H, W); a view, laid out as channels_last."""
    return packed.unsqueeze(-1).view(torch.uint8)[..., :3].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Draws:
    """The random choices for one epoch."""

    flip: NDArray[np.bool_]  # (P,)
    shift: NDArray[np.int16]  # (P, 2): rows, columns
    hole: NDArray[np.int16]  # (P, 2): first row, first column of the cutout
    colour: NDArray[np.float32]  # (P, 3): brightness, contrast, saturation factors
    partner: NDArray[np.int64]  # (P,): position in the epoch of the image to mix with, in the same batch
    blend: list[float]  # (S,): weight of the image itself
    box: list[tuple[int, int, int, int]]  # (S,), cutmix: first and past-last row, first and past-last column


@dataclass(frozen=True)
class Plan:
    """The choices for one epoch, on the device."""

    order: NDArray[np.int64]  # (P,): index in the set; on the host
    images: Tensor  # int64 (P,): the same on the device
    rows: Tensor  # (P, H): index of the first pixel of each row, see `first_pixels` of the set
    columns: Tensor  # (P, W): source column of each pixel
    hole: Tensor  # (P, 2)
    colour: Tensor  # (P, 3)
    partner: Tensor  # (P,)
    draws: Draws


class ResidentPixels:
    """The whole set on the device."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.packed = pack(images.to(device))  # (N, H, W)
        self.size = images.shape[-1]
        # 32 bits are enough to index most data sets, and halve the size of the index.
        self.index_type = torch.int32 if self.packed.numel() < 2**31 else torch.int64

    def first_pixels(self, rows: Tensor, images: Tensor) -> Tensor:
        """Return the index of the first pixel of each of `rows`, (P, H), of the images (P,)."""
        return (images.to(self.index_type).unsqueeze(1) * self.size + rows) * self.size

    def whole(self, order: NDArray[np.int64], images: Tensor) -> Tensor:
        """Return the images at `order`, (b,), on the host, and `images`, the same on the device, packed (b, H, W)."""
        return self.packed.index_select(0, images)

    def fetch(self, order: NDArray[np.int64], first: Tensor) -> tuple[Tensor, Tensor]:
        """Return packed pixels with the images at `order`, (b,), and where in them the rows are, by `first`, (b, H)."""
        return self.packed, first


class StoredPixels:
    """A set in a file, of which images are read, packed and moved to the device when they are needed."""

    index_type = torch.int32

    def __init__(self, images: StoredImages, device: torch.device) -> None:
        self.images = images
        self.size = images.shape[-1]
        self.device = device

    def first_pixels(self, rows: Tensor, images: Tensor) -> Tensor:
        """Return the index of the first pixel of each of `rows`, (P, H), within its own image."""
        return rows * self.size

    def whole(self, order: NDArray[np.int64], images: Tensor) -> Tensor:
        """Return the same as `ResidentPixels.whole`."""
        return pack(self.images[order].to(self.device))

    def fetch(self, order: NDArray[np.int64], first: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `ResidentPixels.fetch`."""
        positions = torch.arange(len(order), dtype=self.index_type, device=self.device)
        return pack(self.images[order].to(self.device)), first + positions.unsqueeze(1) * self.size**2


Pixels = ResidentPixels | StoredPixels


class Augmentation:
    """Random changes to training images that keep their label.

    Args:
        config: The section `augmentation` of the configuration.
        num_images: N.
        image_size: H.
        fill: Colour of holes, uint8 (3,).
        seed: Seed of every draw.
    """

    def __init__(self, config: "AugmentationConfig", num_images: int, image_size: int, fill: Tensor, seed: int) -> None:
        self.config = config
        self.size = image_size
        self.seed = seed
        self.fill = pack(fill.view(1, 3, 1, 1)).item()
        # Alternating: the images that are mirrored in even epochs; in odd epochs the others are.
        self.first_flips = np.random.default_rng([seed, _FIRST_FLIP]).random(num_images) < 0.5

    @property
    def mixes(self) -> bool:
        """Whether targets become probabilities."""
        return self.config.mixup > 0 or self.config.cutmix > 0

    @property
    def moves(self) -> bool:
        """Whether pixels come from other places of their image."""
        return self.config.crop_padding > 0 or self.config.flip != "none"

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return self.config.brightness > 0 or self.config.contrast > 0 or self.config.saturation > 0

    def draw(self, order: NDArray[np.int64], epoch: int, num_steps: int) -> Draws:
        """Choose for an epoch of the images `order`, (P,), in `num_steps` batches."""
        config, num = self.config, len(order)
        spread = np.array([config.brightness, config.contrast, config.saturation], np.float32)
        partner = np.arange(num)
        if self.mixes:
            partner = self._random(_PARTNER, epoch).permuted(partner.reshape(num_steps, -1), axis=1).ravel()
        blend, box = self._draw_blends(epoch, num_steps)
        return Draws(
            flip=self._draw_flips(order, epoch),
            shift=self._draw_pairs(_SHIFT, epoch, num, -config.crop_padding, config.crop_padding + 1),
            hole=self._draw_pairs(_HOLE, epoch, num, -(config.cutout // 2), self.size - config.cutout // 2),
            colour=1 + spread * (2 * self._random(_COLOUR, epoch).random((num, 3), dtype=np.float32) - 1),
            partner=partner,
            blend=blend,
            box=box,
        )

    def plan(self, order: NDArray[np.int64], epoch: int, num_steps: int, pixels: Pixels, device: torch.device) -> Plan:
        """Draw for an epoch of the set `pixels` as `draw` does, and copy the choices to `device`."""
        draws = self.draw(order, epoch, num_steps)
        line = torch.arange(self.size, dtype=pixels.index_type, device=device)
        images, shift, flip, hole, colour, partner = (
            _moved(array, device) for array in (order, draws.shift, draws.flip, draws.hole, draws.colour, draws.partner)
        )
        rows = pixels.first_pixels(_reflect(line + shift[:, :1], self.size), images)
        columns = _reflect(line + shift[:, 1:], self.size)
        columns = torch.where(flip.unsqueeze(1), columns.flip(1), columns)
        return Plan(order, images, rows, columns, hole, colour, partner, draws)

    def apply(self, pixels: Pixels, plan: Plan, step: int, part: slice) -> Tensor:
        """Return the images at positions `part` of the epoch, changed as planned.

        Args:
            pixels: The set.
            plan: The choices for the epoch.
            step: Number of their batch.
            part: b positions within that batch, counted from the beginning of the epoch.

        Returns:
            uint8 (b, 3, H, W); float in 0..255 if colours change or images are mixed by mixup.
        """
        images = self._gather(pixels, plan, part, part)
        if not self.mixes:
            return images
        partners = self._gather(pixels, plan, plan.draws.partner[part], plan.partner[part])
        if self.config.mixup:
            blend = plan.draws.blend[step]
            return images.float().mul_(blend).add_(partners.float(), alpha=1 - blend)
        top, bottom, left, right = plan.draws.box[step]
        images[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return images

    def _gather(
        self,
        source: Pixels,
        plan: Plan,
        on_host: slice | NDArray[np.int64],
        positions: slice | Tensor,
    ) -> Tensor:
        """Return the images at `positions` of the epoch, `on_host` and on the device."""
        if self.moves:
            packed, first_pixels = source.fetch(plan.order[on_host], plan.rows[positions])
            index = first_pixels.unsqueeze(2) + plan.columns[positions].unsqueeze(1)  # (b, H, W)
            pixels = packed.view(-1).index_select(0, index.view(-1)).view(index.shape)
        else:
            pixels = source.whole(plan.order[on_host], plan.images[positions])
        if self.config.cutout:
            line, first = torch.arange(self.size, device=pixels.device), plan.hole[positions].unsqueeze(2)
            inside = (line >= first) & (line < first + self.config.cutout)  # (b, 2, H)
            pixels.masked_fill_(inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1), self.fill)
        images = unpack(pixels)
        return _recolour(images.float(), plan.colour[positions]) if self.recolours else images

    # -- drawing -------------------------------------------------------------------------------------------------

    def _random(self, kind: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, epoch])

    def _draw_flips(self, order: NDArray[np.int64], epoch: int) -> NDArray[np.bool_]:
        if self.config.flip == "alternating":
            return self.first_flips[order] ^ (epoch % 2 == 1)
        if self.config.flip == "random":
            return self._random(_FLIP, epoch).random(len(order)) < 0.5
        return np.zeros(len(order), dtype=bool)

    def _draw_pairs(self, kind: int, epoch: int, num: int, low: int, high: int) -> NDArray[np.int16]:
        """Return integers in [low, high), (num, 2)."""
        return self._random(kind, epoch).integers(low, high, size=(num, 2), dtype=np.int16)

    def _draw_blends(self, epoch: int, num_steps: int) -> tuple[list[float], list[tuple[int, int, int, int]]]:
        """Return for each step the weight of the image itself, and the box that is pasted from its partner."""
        config, random = self.config, self._random(_BLEND, epoch)
        if config.mixup:
            return random.beta(config.mixup, config.mixup, size=num_steps).tolist(), [(0, 0, 0, 0)] * num_steps
        if not config.cutmix:
            return [1.0] * num_steps, [(0, 0, 0, 0)] * num_steps
        areas = 1 - random.beta(config.cutmix, config.cutmix, size=num_steps)
        boxes = [_random_box(random, self.size, area) for area in areas.tolist()]
        return [1 - (bottom - top) * (right - left) / self.size**2 for top, bottom, left, right in boxes], boxes


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return `array` on `device`, copied asynchronously from pinned memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions outside [0, size) at the border pixel."""
    return size - 1 - (size - 1 - positions.abs()).abs()


def _recolour(images: Tensor, factors: Tensor) -> Tensor:  # float (b, 3, H, W), overwritten; (b, 3)
    """Change brightness, then contrast around the mean grey, then saturation around each pixel's grey."""
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1).split(1, dim=1)
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    images.mul_(brightness * contrast).add_(brightness * mean * (1 - contrast))
    grey = _grey(images)
    return images.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:  # (b, 3, H, W) -> (b, 1, H, W)
    red, green, blue = images.split(1, dim=1)
    grey: Tensor = (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
    return grey


def _random_box(random: np.random.Generator, size: int, area: float) -> tuple[int, int, int, int]:
    """Return a square of about `area`, a fraction of the image, around a random centre, clipped at the border."""
    half = size * np.sqrt(area) / 2
    row, column = random.uniform(0, size, size=2)
    edges = np.clip(np.rint([row - half, row + half, column - half, column + half]), 0, size)
    top, bottom, left, right = (int(edge) for edge in edges)
    return top, bottom, left, right
