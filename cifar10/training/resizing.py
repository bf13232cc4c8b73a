"""Progressive resizing: smaller images in the first part of training, which cost less.

Known as progressive resizing, from the DAWNBench entries of fast.ai (https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Stage(Protocol):
    """A part of training in which images are smaller."""

    @property
    def until(self) -> float:
        """Progress of training at which it ends, in (0, 1)."""

    @property
    def scale(self) -> float:
        """Side of the images, as a part of their own, in (0, 1)."""


def pixels_at(progress: float, stages: Sequence[Stage], image_size: int) -> int:
    """Return the side of the images to learn from at `progress` in [0, 1]; after the last stage, `image_size`."""
    current = next((stage for stage in stages if progress < stage.until), None)
    return image_size if current is None else scaled(image_size, current)


def scaled(image_size: int, stage: Stage) -> int:
    """Return the side in pixels that images of `image_size` have in `stage`."""
    return max(1, round(stage.scale * image_size))


def resize(images: Tensor, pixels: int) -> Tensor:
    """Return square `images`, (B, 3, H, H), with sides of `pixels`: as they are, or each pixel an average of several.

    Bytes stay bytes on a CPU, where averaging them is three times as fast as averaging floats; a GPU cannot do that.
    """
    if pixels == images.shape[-1]:
        return images
    images = images if images.device.type == "cpu" else images.float()
    smaller: Tensor = interpolate(images, size=(pixels, pixels), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
