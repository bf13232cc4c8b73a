"""Progressive resizing: smaller images in the first part of training, which cost less.

Known as progressive resizing, from the DAWNBench entries of fast.ai (https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cifar10.devices import resize_on_gpu

if TYPE_CHECKING:
    from cifar10.config.schema import ResizingStage


def pixels_at(progress: float, stages: "Sequence[ResizingStage]", image_size: int) -> int:
    """Return the side of the training images at `progress` in [0, 1]; after the last stage, `image_size`."""
    current = next((stage for stage in stages if progress < stage.until), None)
    return image_size if current is None else scaled(image_size, current)


def scaled(image_size: int, stage: "ResizingStage") -> int:
    """Return the side in pixels of images of `image_size` in `stage`."""
    return max(1, round(stage.scale * image_size))


def resize(images: Tensor, pixels: int, with_programs: bool = False) -> Tensor:
    """Return square `images`, (B, 3, H, H), resized to sides of `pixels` with antialiasing.

    On a CPU uint8 stays uint8, which is three times as fast as float; on a GPU the result is float, computed
    by our own program if `with_programs`.
    """
    if pixels == images.shape[-1]:
        return images
    if images.is_cuda and with_programs:
        return resize_on_gpu(images, pixels)
    images = images if images.device.type == "cpu" else images.float()
    smaller: Tensor = interpolate(images, size=(pixels, pixels), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)
