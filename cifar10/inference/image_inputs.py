"""Convert an image given in Python (path, PIL image, array, tensor, bytes) to pixels for the network.

A path, encoded bytes, a PIL image, an array or a tensor. Files and bytes are read as `infer` reads them, and what is
not square or of another size is cropped and resized in the same way. Importing this needs no torch.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image

from cifar10.errors import UsageError
from cifar10.images.decode import EncodedImage, Pixels, read_image_file, resize_image, resize_picture

if TYPE_CHECKING:
    from torch import Tensor

ImageInMemory: TypeAlias = Union[bytes, bytearray, memoryview, Image.Image, Pixels, "Tensor"]
"""Encoded bytes; a PIL image; an array, uint8 (H, W, 3), RGB; a tensor, uint8 (3, H, W), RGB, on any device."""
ImageInput: TypeAlias = Union[str, "os.PathLike[str]", ImageInMemory]
"""The path of an image file, or an image in memory."""

_KINDS = "a path, bytes, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W)"


def square_pixels(image: ImageInput, size: int) -> Pixels:
    """Return the central square of `image`, resized; uint8 (size, size, 3), RGB.

    Raises:
        UsageError: It is no image, or an array or tensor of another type, shape or channel order.
        ImageError: It cannot be read, or is damaged.
    """
    if isinstance(image, str | os.PathLike):
        return EncodedImage(read_image_file(Path(image))).decode_square(size)
    if isinstance(image, bytes | bytearray | memoryview):
        return EncodedImage(bytes(image)).decode_square(size)
    if isinstance(image, Image.Image):
        return resize_picture(image, size)
    if isinstance(image, np.ndarray):
        _require_rgb(f"an array of {image.dtype}", str(image.dtype), image.shape, channel_axis=2)
        return resize_image(np.ascontiguousarray(image), size)
    if _is_tensor(image):
        dtype = str(image.dtype).removeprefix("torch.")
        _require_rgb(f"a tensor of {dtype}", dtype, image.shape, channel_axis=0)
        return resize_image(np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy()), size)
    raise UsageError(f"{type(image).__name__} is not an image; give {_KINDS}, or a list of them")


def _is_tensor(image: object) -> "TypeGuard[Tensor]":
    torch = sys.modules.get("torch")  # where it has not been imported, nothing is a tensor
    return torch is not None and isinstance(image, torch.Tensor)


def _require_rgb(given: str, dtype: str, shape: Sequence[int], channel_axis: int) -> None:
    """Refuse what is not one uint8 RGB image; `channel_axis` is 2 for arrays and 0 for tensors.

    Raises:
        UsageError: The message says what was given, what is needed, and how to convert it.
    """
    channels_last = channel_axis == 2
    needed = f"is not an image; give uint8, RGB, {'(H, W, 3)' if channels_last else '(3, H, W)'}"
    if dtype != "uint8":
        is_float = dtype.startswith(("float", "bfloat"))
        raise UsageError(f"{given} {needed}{': multiply values from 0 to 1 by 255 and round them' if is_float else ''}")
    if len(shape) == 3 and shape[channel_axis] == 3 and min(shape) > 0:
        return
    advice = ""
    if len(shape) == 4:
        advice = ": give a batch as a list, list(images)"
    elif len(shape) == 3 and shape[2 - channel_axis] == 3:
        advice = f": {'image.transpose(1, 2, 0)' if channels_last else 'image.permute(2, 0, 1)'} moves the channels"
    elif len(shape) == 2 or (len(shape) == 3 and shape[channel_axis] == 1):
        advice = ": repeat the grey channel three times"
    elif len(shape) == 3 and shape[channel_axis] == 4:
        advice = ": leave out the alpha channel"
    raise UsageError(f"{given} and shape {tuple(shape)} {needed}{advice}")
