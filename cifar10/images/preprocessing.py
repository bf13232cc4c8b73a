"""From an image of any size to the square input of a network. Needs no torch."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image, ImageOps

Interpolation = Literal["bicubic", "bilinear"]

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """Which part of an image a network gets, and how it is resized; smoothed when shrinking.

    By default the central square is resized. With `resize_size` the whole image is resized first, and then its centre
    is cropped: pixel by pixel as `torchvision.transforms` does it with PIL images, which published weights expect.

    Raises:
        ValueError: `resize_size` is smaller than `image_size`.
    """

    image_size: int
    """S: height and width of the result in pixels."""
    resize_size: int | None = None
    """Length in pixels that the short side is resized to before the crop; None: the central square is resized."""
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ValueError(f"resize_size={self.resize_size} is smaller than image_size={self.image_size}")

    @property
    def resampling(self) -> Image.Resampling:
        return _RESAMPLING[self.interpolation]

    def describe(self) -> str:
        """Return it in words."""
        if self.resize_size is None:
            return f"central square to {self.image_size} pixels, {self.interpolation}"
        return f"short side to {self.resize_size} pixels, {self.interpolation}, centre {self.image_size}"

    def apply(self, image: Image.Image) -> Image.Image:
        """Return the S x S pixels of `image`, which is upright and in RGB."""
        if self.resize_size is None:
            return ImageOps.fit(image, (self.image_size, self.image_size), self.resampling)
        return self.crop(image.resize(self.resized(image.size), self.resampling))

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height after resizing, for those before it."""
        if self.resize_size is None:
            return self.image_size, self.image_size
        return tuple(int(self.resize_size * side / min(size)) for side in size)  # type: ignore[return-value]

    def columns(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the left and right edge of the part that is resized, of an image that is at least as wide as high."""
        width, height = size
        return (0, width) if self.resize_size is not None else ((width - height) / 2, (width + height) / 2)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the central S x S pixels."""
        left, top = (round((side - self.image_size) / 2) for side in image.size)
        return image.crop((left, top, left + self.image_size, top + self.image_size))


Size: TypeAlias = int | Preprocessing
"""How large an image becomes; a number of pixels is short for `Preprocessing(image_size)`."""


def preprocessing(size: Size) -> Preprocessing:
    """Return `size` as a Preprocessing."""
    return size if isinstance(size, Preprocessing) else Preprocessing(size)
