"""Convert an image given in Python (path, encoded bytes, PIL image, array or tensor) to pixels for the network.

Files and bytes are decoded as in `infer`, and images of any size are cropped and resized in the same way. Importing
this needs no torch.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image

from cifar10.errors import UsageError
from cifar10.images.decode import EncodedImage, ImageError, Pixels, resize_image, resize_picture
from cifar10.images.preprocessing import Size
from cifar10.images.reading import read_image_file

if TYPE_CHECKING:
    from torch import Tensor

ImageInMemory: TypeAlias = Union[bytes, bytearray, memoryview, Image.Image, Pixels, "Tensor"]
"""Encoded bytes; a PIL image; an array, uint8 (H, W, 3), RGB; a tensor, uint8 (3, H, W), RGB, on any device."""
ImageInput: TypeAlias = Union[str, "os.PathLike[str]", ImageInMemory]
"""The path of an image file, or an image in memory."""

_KINDS = "a path, bytes, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W)"


def square_pixels(image: ImageInput, size: Size, reduced: bool = False) -> Pixels:
    """Return `image` cropped and resized, as uint8 (S, S, 3), RGB.

    `reduced` is that of `EncodedImage.decode_square`, for files and bytes.

    Raises:
        UsageError: It is not an image, or an array or tensor of another type, shape or channel order.
        ImageError: It cannot be read, or is damaged.
    """
    if isinstance(image, str | os.PathLike):
        return EncodedImage(read_image_file(Path(image))).decode_square(size, reduced)
    if isinstance(image, bytes | bytearray | memoryview):
        return EncodedImage(bytes(image)).decode_square(size, reduced)
    if isinstance(image, Image.Image):
        return resize_picture(image, size)
    if isinstance(image, np.ndarray):
        _require_rgb("an array", str(image.dtype), image.shape, channel_axis=2)
        return resize_image(np.ascontiguousarray(image), size)
    if _is_tensor(image):
        dtype = str(image.dtype).removeprefix("torch.")
        _require_rgb("a tensor", dtype, image.shape, channel_axis=0)
        return resize_image(np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy()), size)
    raise UsageError(f"{type(image).__name__} is not an image; give {_KINDS}, or a list of them")


def pixels_or_error(image: ImageInput, size: Size, reduced: bool, position: int | None = None) -> Pixels | ImageError:
    """Return the pixels of an image as `square_pixels` does, or the reason why it cannot be read.

    Raises:
        UsageError: It is no image; the message names its position in the list, if it has one.
    """
    try:
        return square_pixels(image, size, reduced)
    except ImageError as error:
        return error
    except UsageError as error:
        raise UsageError(f"{error}" if position is None else f"image {position} of the list: {error}") from None


def path_of(image: ImageInput) -> str:
    """Return the path of an image that was given by its path, nothing for others."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else ""


def _is_tensor(image: object) -> "TypeGuard[Tensor]":
    torch = sys.modules.get("torch")  # where it has not been imported, nothing is a tensor
    return torch is not None and isinstance(image, torch.Tensor)


def _require_rgb(kind: str, dtype: str, shape: Sequence[int], channel_axis: int) -> None:
    """Raise a UsageError unless `kind`, an array or a tensor, is one uint8 RGB image."""
    given, channels_last = f"{kind} of {dtype}", channel_axis == 2
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
